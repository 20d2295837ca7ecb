# Programs that the tests start; plain ones train when they are imported.
collect_ignore_glob = ["scripts/*"]
