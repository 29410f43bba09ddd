/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * keymap - keys to slots, slots to shards
 *
 * Why:         a key has one owner shard; the 16,384 slots between them let the map later span
 *              machines.
 * Concurrency: pure functions.
 */
#include <stddef.h>
#include <stdint.h>

#define KEYMAP_SLOTS 16384u

/* 64-bit FNV-1a, then mixed, so that short keys that differ in one bit spread. */
uint64_t keymap_hash(const void *key, size_t len);

uint32_t keymap_slot(uint64_t hash);

/* Contiguous ranges of slots, as even as can be. */
uint32_t keymap_shard(uint32_t slot, uint32_t n_shards);
