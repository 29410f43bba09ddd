/* SPDX-License-Identifier: MIT */
#pragma once
/*
 * message_text - a message's type as text, in the words of a .proto file
 *
 * Why:         who finds a method in a list sees what to send it without its .proto file.
 * Use:         char *text = message_text(&sherd__file__request__descriptor);   free() it
 *              "message sherd.file.Request { bytes path = 1; uint64 offset = 2; }"
 * Concurrency: pure function
 */
#include <protobuf-c/protobuf-c.h>

/* Types of its fields that are messages themselves are named and not told. NULL: no memory. */
char *message_text(const ProtobufCMessageDescriptor *message);
