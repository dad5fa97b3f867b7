// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The checksum guard: what a guest may have the host write into its frame behind every filter.
 *
 * A virtio guest can ask, in the header that goes with each frame, for a checksum to be summed from csum_start on and
 * stored at csum_start + csum_offset. tun believes it (skb_partial_csum_set), and the device that sends the frame on
 * does it, behind tc, nftables, the bridge and Open vSwitch: 16 bits of any header become what the guest wants. So such
 * a frame passes only where the place is that of the checksum of TCP or UDP at the transport header that is there, or
 * inside what an UDP datagram carries: a tunnel of the guest's own, into which no filter looks.
 *
 * And a neighbour solicitation passes only with a right checksum. By the question whether anybody has an address the
 * filter gives it to who asked, unless somebody answers; who has it drops a damaged one without an answer.
 *
 * Runs at tc ingress of a tap, before nftables' ingress hook. The kernel has taken the outermost VLAN tag out of the
 * frame by then. A frame with another tag is no IP here, as it is none for the filter.
 *
 * Nothing is included, so that the objects depend on the compiler alone; scripts/make-bpf makes two, one for each program:
 * guard_cast reads the kernel's fields directly, which is faster and wants Linux 6.2 (-DCAST); guard_probe wants 5.8.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define BE16(x) __builtin_bswap16(x)
/* A pointer that the compiler computes just once: the kernel's verifier knows that very one to be inside the frame. */
#define SAME(pointer) ({ u8 *same = (pointer); asm volatile("" : "+r"(same)); same; })

/* The part of linux/bpf.h that is needed, all of it fixed. */
struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority;
	u32 ingress_ifindex, ifindex, tc_index, cb[5], hash, tc_classid, data, data_end, napi_id;
	u32 family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4], remote_port, local_port, data_meta;
	u64 flow_keys, tstamp;
	u32 wire_len, gso_segs;
	u64 sk;
	u32 gso_size;
};
enum { TC_ACT_UNSPEC = -1, TC_ACT_SHOT = 2, HASH = 1, NO_PREALLOC = 1 };
static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*load_bytes)(const void *ctx, u32 offset, void *to, u32 size) = (void *)26;
static long (*checksum)(const void *from, u32 from_size, const void *to, u32 to_size, u32 before) = (void *)28;
/* The part of the kernel's own that is needed, wherever this kernel has it. */
struct sk_buff {
	u8 ip_summed : 2;
	u16 csum_start, csum_offset, mac_header, transport_header, inner_network_header;
	u32 end;
	unsigned char *head;
} __attribute__((preserve_access_index));
struct skb_shared_info {
	u32 gso_type;
} __attribute__((preserve_access_index));
enum { CHECKSUM_PARTIAL = 3 };
enum {
	GSO_TCPV4 = 1 << 0, GSO_DODGY = 1 << 1, GSO_ECN = 1 << 2, GSO_TCPV6 = 1 << 4, GSO_TUNNEL = 3 << 10,
	GSO_UFO = 1 << 16, GSO_USO = 1 << 17, GSO_ACCECN = 1 << 19,
};

enum { ETH = 14, IPV4 = 0x0800, IPV6 = 0x86dd, TCP = 6, UDP = 17, TCP_CHECK = 16, UDP_CHECK = 6, UDP_HEADER = 8 };
enum { ICMPV6 = 58, SOLICITATION = 135, IPV6_HEADER = 40, QUESTION = 24, OPTION = 8 };
enum { HOP_BY_HOP = 0, ROUTING = 43, DESTINATION = 60, MOST_EXTENSIONS = 8 };
/* What has a lower port is no tunnel; and into DHCP the filter looks. */
enum { FIRST_TUNNEL_PORT = 1024, DHCP_SERVER = 67, DHCP_CLIENT = 68, DHCPV6_CLIENT = 546, DHCPV6_SERVER = 547 };

/* Frames dropped, by the index of the device. Only guarded taps have an entry. Where it has the bit OBSERVED, they pass. */
enum { OBSERVED = 63 };
struct {
	int (*type)[HASH];
	int (*map_flags)[NO_PREALLOC];
	int (*max_entries)[65536];
	u32 *key;
	u64 *value;
} drops SEC(".maps");

/* What the guest asked for. Offsets are from the frame's beginning. */
struct asked {
	u32 partial, start, offset, gso, transport, inner_network;
};

/* The transport header that is there, and the port that UDP goes to, 0 for other protocols. */
struct found {
	u32 family, protocol, at, port;
};

/* Where the transport header begins; `at` is 0 where none is to be found, and in fragments. */
INLINE void find(struct found *found, u8 *frame, u8 *end)
{
	found->at = 0;
	if (frame + ETH + 20 > end)
		return;
	found->family = frame[12] << 8 | frame[13];
	u8 *ip = frame + ETH;
	if (found->family == IPV4) {
		int fragment = (ip[6] & 0x3f) | ip[7], words = ip[0] & 15;
		found->protocol = ip[9];
		found->at = fragment || words < 5 ? 0 : ETH + 4 * words;
		return;
	}
	if (found->family != IPV6 || frame + ETH + 40 > end)
		return;
	u32 next = ip[6], at = ETH + 40;
	for (int i = 0; i < MOST_EXTENSIONS && (next == HOP_BY_HOP || next == ROUTING || next == DESTINATION); i++) {
		u8 *header = SAME(frame + at);
		if (header + 2 > end)
			return;
		next = header[0];
		at += 8 * (header[1] + 1);
	}
	found->protocol = next;
	found->at = at;
}

INLINE u32 port_at(u8 *frame, u8 *end, u32 udp)
{
	u8 *header = SAME(frame + udp);
	return header + UDP_HEADER <= end ? header[2] << 8 | header[3] : 0;
}

/*
 * Whether the frame is of the kind that it is to be cut into. Inside a tunnel the outer UDP header counts. DHCP that is
 * cut into pieces is several messages, of which the filter has seen one.
 */
INLINE int is_segmentable(const struct asked *asked, const struct found *found)
{
	u32 port = found->port, kind = asked->gso & ~(GSO_DODGY | GSO_ECN | GSO_ACCECN | GSO_TUNNEL);
	if (asked->gso & GSO_TUNNEL)
		return found->protocol == UDP && asked->partial && asked->transport == found->at &&
		       asked->inner_network >= found->at + UDP_HEADER && asked->start > asked->inner_network;
	if (found->protocol == TCP)
		return kind == (found->family == IPV4 ? GSO_TCPV4 : GSO_TCPV6);
	if (!port || port == DHCP_SERVER || port == DHCP_CLIENT || port == DHCPV6_SERVER || port == DHCPV6_CLIENT)
		return 0;
	return kind == GSO_UFO || kind == GSO_USO;
}

INLINE int is_honest(struct __sk_buff *ctx, const struct asked *asked)
{
	u8 *frame = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	struct found found = {};
	find(&found, frame, end);
	if (!found.at || (found.protocol != TCP && found.protocol != UDP))
		return 0;
	if (found.protocol == UDP)
		found.port = port_at(frame, end, found.at);
	if (asked->gso && !is_segmentable(asked, &found))
		return 0;
	if (!asked->partial)
		return 1;
	if (asked->start == found.at)
		return asked->offset == (found.protocol == TCP ? TCP_CHECK : UDP_CHECK);
	if (found.protocol != UDP || asked->start < found.at + UDP_HEADER || (asked->gso && !(asked->gso & GSO_TUNNEL)))
		return 0;
	return (asked->offset == TCP_CHECK || asked->offset == UDP_CHECK) && found.port >= FIRST_TUNNEL_PORT;
}

INLINE int drop(struct __sk_buff *ctx)
{
	u32 device = ctx->ifindex;
	u64 *dropped = map_lookup(&drops, &device);
	if (!dropped)
		return TC_ACT_SHOT;
	__sync_fetch_and_add(dropped, 1);
	return *dropped >> OBSERVED ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

INLINE int judge(struct __sk_buff *ctx, const struct asked *asked)
{
	return is_honest(ctx, asked) ? TC_ACT_UNSPEC : drop(ctx);
}

/* Of a length that the filter takes, and with nothing between the IPv6 header and it. */
INLINE int is_damaged_question(struct __sk_buff *ctx)
{
	u8 *frame = (u8 *)(u64)ctx->data, *end = (u8 *)(u64)ctx->data_end;
	if (ctx->protocol != BE16(IPV6))
		return 0;
	/* Nothing says that the headers are where they can be read at once. */
	if (frame + ETH + IPV6_HEADER + 1 <= end && (frame[ETH + 6] != ICMPV6 || frame[ETH + IPV6_HEADER] != SOLICITATION))
		return 0;
	u32 words[(IPV6_HEADER + QUESTION + OPTION) / 4] = {};
	u8 *packet = (u8 *)words;
	if (load_bytes(ctx, ETH, packet, IPV6_HEADER + QUESTION))
		return 0;
	u32 length = packet[4] << 8 | packet[5];
	if (packet[6] != ICMPV6 || packet[IPV6_HEADER] != SOLICITATION || (length != QUESTION && length != QUESTION + OPTION))
		return 0;
	if (length != QUESTION && load_bytes(ctx, ETH + IPV6_HEADER + QUESTION, packet + IPV6_HEADER + QUESTION, OPTION))
		return 0;
	/* The pseudo-header has the addresses, which stand behind this in the packet, too (RFC 8200, 8.1). */
	words[0] = length << 24;
	words[1] = ICMPV6 << 24;
	u32 sum = checksum(0, 0, packet, sizeof(words), 0);
	sum = (sum & 0xffff) + (sum >> 16);
	return (u16)(sum + (sum >> 16)) != 0xffff;
}

INLINE int judge_plain(struct __sk_buff *ctx)
{
	return is_damaged_question(ctx) ? drop(ctx) : TC_ACT_UNSPEC;
}

/* preserve_field_info: the byte of a bit field and its bits, as libbpf's BPF_CORE_READ_BITFIELD has it. */
#define BYTES(field) __builtin_preserve_field_info(field, 1)
#define OFFSET(field) __builtin_preserve_field_info(field, 0)
#define LSHIFT(field) __builtin_preserve_field_info(field, 4)
#define RSHIFT(field) __builtin_preserve_field_info(field, 5)

#ifdef CAST
extern void *bpf_cast_to_kern_ctx(void *ctx) SEC(".ksyms");
extern void *bpf_rdonly_cast(const void *object, u32 type) SEC(".ksyms");
/* The number of a type in this kernel's BTF. */
#define KERNEL_TYPE(type) __builtin_btf_type_id(*(type *)0, 1)

INLINE u32 gso_type(struct sk_buff *skb)
{
	struct skb_shared_info *shared = bpf_rdonly_cast(skb->head + skb->end, KERNEL_TYPE(struct skb_shared_info));
	return shared->gso_type;
}

SEC("tc") int guard_cast(struct __sk_buff *ctx)
{
	struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);
	u32 gso = ctx->gso_size;
	void *place = (void *)skb + OFFSET(skb->ip_summed);
	u64 word;
	switch (BYTES(skb->ip_summed)) {
	case 1: word = *(u8 *)place; break;
	case 2: word = *(u16 *)place; break;
	case 4: word = *(u32 *)place; break;
	default: word = *(u64 *)place;
	}
	word = word << LSHIFT(skb->ip_summed) >> RSHIFT(skb->ip_summed);
	int partial = word == CHECKSUM_PARTIAL;
	if (!partial && !gso)
		return judge_plain(ctx);
	u16 mac = skb->mac_header;
	struct asked asked = {
		.partial = partial,
		.start = (u16)(skb->csum_start - mac),
		.offset = skb->csum_offset,
		.gso = gso ? gso_type(skb) : 0,
		.transport = (u16)(skb->transport_header - mac),
		.inner_network = (u16)(skb->inner_network_header - mac),
	};
	return judge(ctx, &asked);
}

#else
static long (*probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
enum { MOST_COPIED = 128 };

/*
 * Each call of probe_read_kernel costs some 25 ns, whatever it reads. So there is one, of all from ip_summed to head,
 * which is where every kernel has the other fields, too. COPIED drops a frame where one of them is elsewhere; the
 * verifier, to which all places are numbers, leaves that out where it cannot be. It refuses a program to which head
 * comes before ip_summed, or more than MOST_COPIED after it.
 */
#define COPIED(type, field) ({ \
	u64 place = OFFSET(field) - first; \
	asm volatile("" : "+r"(place)); /* else the compiler does sums on a pointer to the stack that are forbidden */ \
	if (place > size - sizeof(type)) \
		return drop(ctx); \
	*(type *)((void *)copy + place); })

SEC("tc") int guard_probe(struct __sk_buff *ctx)
{
	struct sk_buff *skb = (void *)ctx;
	u32 gso = ctx->gso_size;
	u64 copy[MOST_COPIED / 8], first = OFFSET(skb->ip_summed) & ~7, size = OFFSET(skb->head) + sizeof(skb->head) - first;
	if (probe_read_kernel(copy, size, (void *)skb + first))
		return drop(ctx);
	u64 word = copy[0] >> 8 * (OFFSET(skb->ip_summed) - first);
	word = word << LSHIFT(skb->ip_summed) >> RSHIFT(skb->ip_summed);
	int partial = word == CHECKSUM_PARTIAL;
	if (!partial && !gso)
		return judge_plain(ctx);
	u16 mac = COPIED(u16, skb->mac_header);
	struct asked asked = {
		.partial = partial,
		.start = (u16)(COPIED(u16, skb->csum_start) - mac),
		.offset = COPIED(u16, skb->csum_offset),
		.transport = (u16)(COPIED(u16, skb->transport_header) - mac),
		.inner_network = (u16)(COPIED(u16, skb->inner_network_header) - mac),
	};
	if (gso) {
		struct skb_shared_info *shared = (void *)COPIED(unsigned char *, skb->head) + COPIED(u32, skb->end);
		if (probe_read_kernel(&asked.gso, sizeof(asked.gso), &shared->gso_type))
			return drop(ctx);
	}
	return judge(ctx, &asked);
}
#endif

/* bpf_probe_read_kernel and kernel functions are for GPL-compatible programs only. */
char the_license[] SEC("license") = "Dual BSD/GPL";
char the_source[] SEC("made.from") = SOURCE;
