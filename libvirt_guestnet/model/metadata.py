"""Our <metadata> in libvirt's XML: the one place where declaring and enforcing meet.

Written by `xmlgen`, read by the hooks (`hook/intent*`), described by the RELAX NG schema in `xml/metadata.rng`.
One top-level element per object, since libvirt keeps one per namespace::

    <guestnet:network xmlns:guestnet="https://libvirt-guestnet.org/xmlns/1"
                      topology="archnetwork" name="vlan1" guarded="yes">   <!-- or no, or required -->
      <guestnet:subnet prefix="10.61.1.0/24" host="10.61.1.1"/>
      <guestnet:uplink label="lan1" device="eth1"/>          <!-- mode bridge only: the NIC behind the bridge -->
                                       <!-- with vlan="100" the bridge is over eth1.100; service="yes": 802.1ad -->
      <guestnet:vlan tag="100" label="lan2" uplink="eth2"/>  <!-- the bridge is VLAN-aware: the hook tags the taps -->
      <guestnet:vxlan vni="5001" port="4789" label="lan1" device="eth1" group="239.1.1.1" mtu="1450"/>
                       <!-- mode bridge only, instead of an uplink; without group, <guestnet:remote ip=…/> inside -->
    </guestnet:network>

    <guestnet:domain xmlns:guestnet="…" topology="archnetwork" guest="b" image="tiny">
      <guestnet:port mac="52:54:00:61:0b:02" name="vlan2" network="vlan2" guarded="yes">
                       <!-- instead of any address: addresses="none" or addresses="any" -->
        <guestnet:address ip="10.61.2.1"/>                    <!-- the port's own: as source, in ARP and ND -->
        <guestnet:source prefix="0.0.0.0/0"/>                 <!-- routed: as IP source only -->
        <guestnet:onlink prefix="10.61.2.0/24"/>              <!-- carved out of the routed sources -->
        <guestnet:behind prefix="10.61.3.0/24"/>              <!-- the host routes it to this port -->
        <guestnet:pair prefix="10.61.2.100/32" mac="00:00:5e:00:01:05"/>  <!-- more of its own; the MAC is optional -->
        <guestnet:role name="dhcp-server"/>            <!-- or ra-sender, router-protocols, own-sources -->
        <guestnet:forward at="198.18.1.1" protocol="tcp" ports="8080" to="10.61.2.1" first="80"/>  <!-- a way in; with
                                  hide="yes" the guest sees the host as client; without at: any address of the host;
                                  to="lease4": what the guest has by DHCP -->
        <guestnet:floating ip="198.18.1.50" to="10.61.2.1"/>  <!-- all of an address, in both directions;
                                  with via="10.61.2.1" in the place of to= untranslated: the guest has it itself -->
        <guestnet:vlan trunk="100-110,200" native="1"/>       <!-- or tag="100": its own, not the network's -->
        <guestnet:routed gateway="169.255.30.1" publish="yes" label="lan1" device="eth1"/>
                       <!-- in no bridge: the host routes to it and answers for it on a LAN; table="100", vrf="red" -->
                                       <!-- with probe="no" on the port no LAN is asked for its addresses before -->
      </guestnet:port>
    </guestnet:domain>
"""

NAMESPACE = "https://libvirt-guestnet.org/xmlns/1"
PREFIX = "guestnet"
# guarded= of a network, beside yes and no: no domain's own metadata lowers it.
REQUIRED = "required"
# privacy= beside yes and no: a guest has no IPv6 address but those that are known.
STRICT = "strict"
# to= of a forward: whatever IPv4 address the host's DHCP server gives the guest.
LEASE = "lease4"
