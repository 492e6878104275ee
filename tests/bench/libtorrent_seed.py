"""The least seeding daemon on libtorrent's Python wheel: libtorrent_seed.py PORT TORRENTS DATA STATE ADDRESS"""

import glob
import os
import signal
import sys
import time

import libtorrent as lt

port, torrents, data, state, address = sys.argv[1:]
session = lt.session({
    "listen_interfaces": f"{address}:{port}", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
    "enable_natpmp": False, "allow_multiple_connections_per_ip": True, "unchoke_slots_limit": 64,
    "connections_limit": 3000, "alert_mask": 0, "out_enc_policy": lt.enc_policy.disabled,
})
handles = []
for path in sorted(glob.glob(torrents + "/*.torrent")):
    resume = f"{state}/{os.path.basename(path)}.resume"
    if os.path.exists(resume):
        parameters = lt.read_resume_data(open(resume, "rb").read())
    else:
        parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(path)
    parameters.save_path = data
    parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handles.append((session.add_torrent(parameters), resume))


def end(*_):
    names = {str(handle.info_hash()): resume for handle, resume in handles}
    for handle, _ in handles:
        handle.save_resume_data(lt.save_resume_flags_t.save_info_dict)
    stop = time.time() + 10
    while names and time.time() < stop:
        session.wait_for_alert(500)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.save_resume_data_alert):
                resume = names.pop(str(alert.params.info_hashes.v1), None)
                if resume:
                    open(resume, "wb").write(lt.write_resume_data_buf(alert.params))
    os._exit(0)


signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
