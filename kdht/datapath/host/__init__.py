"""The parts of a host that the fast paths read or change: nft rules, sysctls, links, routes."""
