"""The parts of the routing core, all Cython: IDs and k-buckets, tags, messages, packets, replies. `kdht._routing` joins them."""
