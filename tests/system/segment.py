# SPDX-License-Identifier: MIT
"""
segment - finds words of an instance's segment by name, through the segment's own description

Why:   a test that breaks a word on purpose must not know the layout of this version.
Use:   off, size = segment.place(memory, "shard", 0, "pairs", 1, 0, "calls_submitted")
       later = segment.relaid(memory)    # the same, as another build would have laid it out
"""
import struct

HEAD, AREA, REGION, RECORD, FIELD = "<10I", "<32s3Q", "<32s6IQ", "<32s3I", "<32s3I"
PAGE = 4096
SPARE = 8  # a field's kind


def _text(raw):
    return raw.split(b"\0", 1)[0].decode()


class Row:
    """One row of the description: where it stands, and what it says."""

    def __init__(self, memory, at, form):
        self.at, self.form = at, form
        self.values = list(struct.unpack_from(form, memory, at))
        self.name = _text(self.values[0])

    def store(self, memory):
        struct.pack_into(self.form, memory, self.at, *self.values)


class Area(Row):
    off, stride, n = (property(lambda self, i=i: self.values[i]) for i in (1, 2, 3))


class Region(Row):
    area, record, _, n_outer, n_inner, stride, off = (
        property(lambda self, i=i: self.values[i]) for i in range(1, 8))


class Record(Row):
    bytes, first, n_fields = (property(lambda self, i=i: self.values[i]) for i in (1, 2, 3))


class Field(Row):
    off, bytes, element = (property(lambda self, i=i: self.values[i]) for i in (1, 2, 3))


class Layout:
    """Areas, regions, records and fields, as shard/layout.h has them."""

    def __init__(self, memory):
        self.off, self.bytes = struct.unpack_from("<2Q", memory, 16)
        head = struct.unpack_from(HEAD, memory, self.off)
        at, tables = self.off + head[0], []
        for row_bytes, n, kind, form in zip(head[1:5], head[5:9], (Area, Region, Record, Field),
                                            (AREA, REGION, RECORD, FIELD)):
            tables.append([kind(memory, at + i * row_bytes, form) for i in range(n)])
            at += row_bytes * n
        self.areas, self.regions, self.records, self.fields = tables

    def fields_of(self, record):
        return self.fields[record.first:record.first + record.n_fields]

    def places(self, region):
        """Where each of its records is."""
        area = self.areas[region.area]
        for nth in range(area.n):
            for i in range(region.n_outer * region.n_inner):
                yield area.off + nth * area.stride + region.off + i * region.stride


def place(memory, area, nth, region, outer, inner, field):
    """Offset and size of a field."""
    layout = Layout(memory)
    for row in layout.regions:
        of = layout.areas[row.area]
        if (of.name, row.name) == (area, region):
            break
    else:
        raise KeyError(f"no region {region} in {area}")
    for f in layout.fields_of(layout.records[row.record]):
        if f.name == field:
            return (of.off + nth * of.stride + row.off + (outer * row.n_inner + inner) * row.stride + f.off,
                    f.bytes)
    raise KeyError(f"no field {field} in {region}")


def _swap_words(memory, layout, record):
    """The first two words of a record that are of one size change places, in it and in all there are."""
    words = [f for f in layout.fields_of(record) if f.bytes == f.element == 8]
    if len(words) < 2:
        return
    one, other = words[0].off, words[-1].off
    words[0].values[1], words[-1].values[1] = other, one
    words[0].store(memory)
    words[-1].store(memory)
    for region in layout.regions:
        if layout.records[region.record] is record:
            for at in layout.places(region):
                memory[at + one:at + one + 8], memory[at + other:at + other + 8] = \
                    memory[at + other:at + other + 8], memory[at + one:at + one + 8]


def _grow(memory, layout, name):
    """The regions of that name in parts move to their ends, with more room for each record."""
    moved = [r for r in layout.regions if r.name == name]
    parts = [a for a in layout.areas if a.name in ("shard", "gateway")]
    more = max(r.n_outer * r.n_inner * 2 * r.stride for r in moved) + PAGE - 1 & ~(PAGE - 1)
    grown = bytearray(memory[:min(a.off for a in parts)])
    copies = {}
    for area in parts:
        copies[area.name] = [memory[area.off + i * area.stride:area.off + (i + 1) * area.stride]
                             for i in range(area.n)]
    for area in parts:
        old = area.stride
        area.values[1:3] = len(grown), old + more
        for part in copies[area.name]:
            new = bytearray(part) + b"\xee" * more
            for r in moved:
                for i in range(r.n_outer * r.n_inner if layout.areas[r.area] is area else 0):
                    new[old + 2 * i * r.stride:old + (2 * i + 1) * r.stride] = \
                        part[r.off + i * r.stride:r.off + (i + 1) * r.stride]
                    new[r.off + i * r.stride:r.off + (i + 1) * r.stride] = b"\xdd" * r.stride
            grown += new
        for r in moved:
            if layout.areas[r.area] is area:
                r.values[6:8] = 2 * r.stride, old
                r.store(grown)
        area.store(grown)
    return grown


def relaid(memory):
    """A copy as a later build might have it: words stand in another order, records are larger, and lie
    elsewhere. What is in it is the same; no call may be under way, for buffers move."""
    copy = bytearray(memory)
    layout = Layout(copy)
    for record in layout.records:
        if record.name in ("pair_stats", "peer_control", "part_head", "supervisor_head", "call_slot",
                           "co_entry", "aio_counters", "lock_record"):
            _swap_words(copy, layout, record)
    return _grow(copy, layout, "pairs")
