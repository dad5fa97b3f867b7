"""Our <metadata> in libvirt's XML, where declaring and enforcing meet: typed once (`policy`), written (`writer`) and
read (`reader`) side by side. The schema is xml/metadata.rng."""
