"""Nodes of a DHT on libtorrent's Python wheel, one at each address: libtorrent_dht.py PORT ADDRESS..."""

import signal
import sys

import libtorrent as lt

port, *addresses = sys.argv[1:]
sessions = [
    lt.session({
        "listen_interfaces": f"{address}:{port}", "enable_dht": True, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "alert_mask": 0, "dht_bootstrap_nodes": f"{addresses[0]}:{port}",
        "dht_restrict_routing_ips": False, "dht_restrict_search_ips": False,
    })
    for address in addresses
]
signal.pause()
