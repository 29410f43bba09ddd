# SPDX-License-Identifier: MIT
"""
segment - finds a word of an instance's segment by name, through the segment's own description

Why:   a test that breaks a word on purpose must not know the layout of this version.
Use:   off, size = segment.place(memory, "shard", 0, "pairs", 1, 0, "calls_submitted")
"""
import struct


def _text(raw):
    return raw.split(b"\0", 1)[0].decode()


def place(memory, area, nth, region, outer, inner, field):
    """Offset and size of a field, as shard/layout.h has it: areas, regions, records, fields."""
    layout, = struct.unpack_from("<Q", memory, 16)
    head = struct.unpack_from("<10I", memory, layout)
    sizes, counts = head[1:5], head[5:9]
    tables, at = [], layout + head[0]
    for row_bytes, n in zip(sizes, counts):
        tables.append([at + i * row_bytes for i in range(n)])
        at += row_bytes * n
    areas, regions, records, fields = tables
    for row in regions:
        name, area_number, record, _, _, n_inner, stride, off = struct.unpack_from("<32s6IQ", memory, row)
        area_name, area_off, area_stride, _ = struct.unpack_from("<32s3Q", memory, areas[area_number])
        if (_text(area_name), _text(name)) == (area, region):
            break
    else:
        raise KeyError(f"no region {region} in {area}")
    _, _, first, n_fields = struct.unpack_from("<32s3I", memory, records[record])
    for row in fields[first:first + n_fields]:
        name, field_off, size = struct.unpack_from("<32s2I", memory, row)
        if _text(name) == field:
            record_off = area_off + nth * area_stride + off + (outer * n_inner + inner) * stride
            return record_off + field_off, size
    raise KeyError(f"no field {field} in {region}")
