# SPDX-License-Identifier: MIT
"""
reclaim - what an instance has of its local clients: rows, lanes, requests, memory, fds

Use:   holdings = Holdings(instance)        # the instance's processes stay, or holdings.look_anew()
       before = holdings.take()             # with those clients that are to stay
       holdings.differ(before)              # "" where all is as it was, else what is not
       holdings.close()
"""
import mmap
import os
import struct

import segment

MEMFD = "/memfd:sherd-client"
FREE, ATTACHING, ATTACHED, ENDING = range(4)
LANE_NONE = 0


class Column:
    """One byte of a field of all records of a region: its lowest."""

    def __init__(self, layout, area_name, nth, region_name, field_name):
        for region in layout.regions:
            area = layout.areas[region.area]
            if (area.name, region.name) == (area_name, region_name):
                break
        else:
            raise KeyError(region_name)
        field = next(f for f in layout.fields_of(layout.records[region.record]) if f.name == field_name)
        first = area.off + nth * area.stride + region.off + field.off
        self.all = slice(first, first + region.n_outer * region.n_inner * region.stride, region.stride)

    def of(self, memory):
        return memory[self.all]


def used(column, memory):
    """Numbers of the records in which it is not 0."""
    values = column.of(memory)
    return frozenset(n for n, value in enumerate(values) if value) if any(values) else frozenset()


def loop_ns(pid):
    """(CPU, time without a processor though it was ready to run) of a process's first thread."""
    with open(f"/proc/{pid}/task/{pid}/schedstat") as file:
        return tuple(map(int, file.read().split()[:2]))


class Holdings:
    def __init__(self, instance):
        self.instance = instance
        with open(os.path.join(instance.runtime_dir, instance.name, "segment"), "rb") as file:
            self.memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        layout = segment.Layout(self.memory)
        n_shards = next(a.n for a in layout.areas if a.name == "shard")
        self.rows = Column(layout, "gateway", 0, "clients", "word")
        self.lanes = [Column(layout, "shard", n, "client_lanes", "state") for n in range(n_shards)]
        self.ledgers = [Column(layout, "shard", n, "ledger", "word") for n in range(n_shards)]
        self.owners = [segment.place(self.memory, "shard", n, "ledger", 0, 0, "client")[0] for n in range(n_shards)]
        self.look_anew()

    def close(self):
        self.memory.close()

    def look_anew(self):
        """Processes may have been replaced."""
        self.pids = {process["role"] + str(process.get("shard", "")): process["pid"]
                     for process in self.instance.processes()}
        self.pids["supervisor"] = self.instance.supervisor.pid

    def cpu_ns(self, *names):
        """That the loops of these processes have had, or of all."""
        return sum(loop_ns(pid)[0] for pid in [self.pids[name] for name in names] or self.pids.values())

    def waited_ns(self):
        """That all loops, and whoever asks, were ready to run and had no processor."""
        return sum(loop_ns(pid)[1] for pid in [*self.pids.values(), os.getpid()])

    def clients(self):
        """Numbers of those whose rows are not free."""
        return used(self.rows, self.memory)

    def state(self, client):
        return self.rows.of(self.memory)[client]

    def requests_of(self, client):
        """The shards that have one, as often as they have."""
        return [shard for shard, of in self.requests() if of == client]

    def requests(self):
        """(shard, client) of those in ledgers."""
        found = []
        for shard, ledger in enumerate(self.ledgers):
            for slot in used(ledger, self.memory):
                at = self.owners[shard] + slot * ledger.all.step
                found.append((shard, struct.unpack_from("<I", self.memory, at)[0]))
        return found

    def lanes_in_use(self):
        return {(shard, client) for shard, lanes in enumerate(self.lanes) for client in used(lanes, self.memory)}

    def memory_of(self, pid):
        """(inodes of clients' memory that it has mapped or open, number of its sockets)."""
        inodes, n_sockets = set(), 0
        for fd in os.listdir(f"/proc/{pid}/fd"):
            path = f"/proc/{pid}/fd/{fd}"
            try:
                target = os.readlink(path)
                if target.startswith(MEMFD):
                    inodes.add(os.stat(path).st_ino)
                n_sockets += target.startswith("socket:")
            except FileNotFoundError:
                pass
        with open(f"/proc/{pid}/maps") as maps:
            inodes.update(int(line.split()[4]) for line in maps if MEMFD in line)
        return inodes, n_sockets

    def take(self):
        """All of it."""
        return {"clients": self.clients(), "lanes": self.lanes_in_use(),
                **{name: self.memory_of(pid) for name, pid in self.pids.items()}}

    def differ(self, before):
        """What is there that was not, or the other way round. Requests come and go: those of clients that were there
        do not count."""
        if self.clients() != before["clients"]:
            return f"clients {sorted(self.clients())}"
        if self.lanes_in_use() != before["lanes"]:
            return f"lanes {sorted(self.lanes_in_use())}"
        left = [(shard, client) for shard, client in self.requests() if client not in before["clients"]]
        if left:
            return f"requests {left}"
        for name, pid in self.pids.items():
            if self.memory_of(pid) != before[name]:
                return f"{name}: memory, sockets {self.memory_of(pid)} instead of {before[name]}"
        return ""
