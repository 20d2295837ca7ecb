"""Training jobs on two hosts that a slow link joins: network namespaces of this machine."""
