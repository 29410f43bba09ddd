/* SPDX-License-Identifier: MIT */
#include "proto/message_text.h"

#include <stdio.h>
#include <stdlib.h>

/* X(protobuf-c's, .proto's) */
#define PLAIN_TYPES(X)      \
    X(INT32, "int32")       \
    X(SINT32, "sint32")     \
    X(SFIXED32, "sfixed32") \
    X(INT64, "int64")       \
    X(SINT64, "sint64")     \
    X(SFIXED64, "sfixed64") \
    X(UINT32, "uint32")     \
    X(FIXED32, "fixed32")   \
    X(UINT64, "uint64")     \
    X(FIXED64, "fixed64")   \
    X(FLOAT, "float")       \
    X(DOUBLE, "double")     \
    X(BOOL, "bool")         \
    X(STRING, "string")     \
    X(BYTES, "bytes")

static const char *type_name(const ProtobufCFieldDescriptor *field)
{
    switch (field->type) {
#define X(name, text)            \
    case PROTOBUF_C_TYPE_##name: \
        return text;
        PLAIN_TYPES(X)
#undef X
    case PROTOBUF_C_TYPE_ENUM:
        return ((const ProtobufCEnumDescriptor *)field->descriptor)->name;
    case PROTOBUF_C_TYPE_MESSAGE:
        return ((const ProtobufCMessageDescriptor *)field->descriptor)->name;
    }
    return "unknown";
}

char *message_text(const ProtobufCMessageDescriptor *message)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    if (!out)
        return NULL;
    fprintf(out, "message %s {", message->name);
    for (unsigned i = 0; i < message->n_fields; i++) {
        const ProtobufCFieldDescriptor *field = &message->fields[i];
        fprintf(out, " %s%s %s = %u;", field->label == PROTOBUF_C_LABEL_REPEATED ? "repeated " : "",
            type_name(field), field->name, field->id);
    }
    fputs(" }", out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
