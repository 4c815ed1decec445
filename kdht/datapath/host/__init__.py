"""What the fast paths read or change on a host: nft rules, sysctls, links and routes."""
