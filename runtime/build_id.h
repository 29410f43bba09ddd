/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * build_id - what tells one build of this program from another
 *
 * Why:         a stack or a number for a method means the same only in processes of one image.
 * Use:         build_id_read(header->build_id) by who writes a segment; who maps it compares.
 * Concurrency: any thread
 * Not here:    what is done where they differ
 */
#include <stdint.h>

#define BUILD_ID_BYTES 32

/* The executable's GNU build id, zero-padded, cut if longer; zero bytes where it was linked without
 * one. */
void build_id_read(uint8_t ret[BUILD_ID_BYTES]);

/* What is to be added to the addresses in the executable's file. */
uint64_t build_id_image_base(void);
