"""A systemd that is made up: answers StartTransientUnit on a bus as the real one does, and moves the processes.

made_up_systemd.py ADDRESS DIRECTORY UID: scopes are made in DIRECTORY (of a hierarchy of version 2), and given to UID.
Says "ready", then one line of JSON for each request.
"""

import json
import os
import sys

from jeepney import HeaderFields, MessageType, message_bus, new_error, new_method_return
from jeepney.io.blocking import open_dbus_connection


def main(address, directory, uid):
    with open_dbus_connection(address) as connection:
        connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.systemd1"))
        print("ready", flush=True)
        while True:
            message = connection.receive()
            if message.header.message_type is not MessageType.method_call:
                continue
            member = message.header.fields[HeaderFields.member]
            if member != "StartTransientUnit":
                connection.send(new_error(message, "org.freedesktop.DBus.Error.UnknownMethod", "s", (member,)))
                continue
            name, mode, properties, aux = message.body
            values = {key: value for key, (_, value) in properties}
            print(json.dumps({"name": name, "mode": mode, "aux": aux, **values}), flush=True)
            if os.environ.get("REFUSE"):
                connection.send(new_error(message, "org.freedesktop.DBus.Error.AccessDenied", "s", ("not for you",)))
                continue
            start(f"{directory}/{name}", values, uid)
            connection.send(new_method_return(message, "o", ("/org/freedesktop/systemd1/job/1",)))


def start(path, values, uid):
    os.mkdir(path)
    for pid in values["PIDs"]:
        with open(f"{path}/cgroup.procs", "w") as file:
            file.write(str(pid))
    if values.get("Delegate"):
        os.setxattr(path, "user.delegate", b"1")
        for file in (path, f"{path}/cgroup.procs", f"{path}/cgroup.subtree_control", f"{path}/cgroup.threads"):
            os.chown(file, uid, uid)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
