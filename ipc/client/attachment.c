/* SPDX-License-Identifier: MIT */
#include "ipc/client/attachment.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ipc/client/waiter.h"

#define REMIND_NS (INT64_C(250) * 1000000)
#define FDS_MAX   4u /* more than one is a fault, but must be closed all the same */

int attachment_connect(struct attachment *attach, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    *attach = (struct attachment){.fd = -1};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    attach->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (attach->fd < 0)
        return -errno;
    if (connect(attach->fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return 0;
    int r = -errno;
    attachment_close(attach);
    return r;
}

void attachment_close(struct attachment *attach)
{
    if (attach->fd >= 0)
        close(attach->fd);
    attach->fd = -1;
    attach->waits = false;
}

/* ---- sending ---- */

static int send_message(struct attachment *attach, int64_t now_ns)
{
    if (send(attach->fd, &attach->message, attach->message_len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        return -errno;
    attach->waits = true;
    attach->sent_ns = now_ns;
    return 0;
}

static struct attach_head next_head(struct attachment *attach, enum attach_kind kind)
{
    return (struct attach_head){.magic = ATTACH_MAGIC,
        .version = ATTACH_VERSION,
        .kind = (uint16_t)kind,
        .serial = ++attach->serial};
}

int attach_hello(
    struct attachment *attach, const char *name, uint64_t data_bytes, uint32_t n_entries)
{
    struct attach_hello *hello = &attach->message.hello;

    *hello = (struct attach_hello){.head = next_head(attach, ATTACH_HELLO),
        .features = ATTACH_URGENT,
        .data_bytes = data_bytes,
        .n_entries = n_entries};
    snprintf(hello->client, sizeof(hello->client), "%s", name);
    attach->message_len = sizeof(*hello);
    return send_message(attach, waiter_now_ns());
}

int attachment_open(struct attachment *attach, uint32_t shard)
{
    attach->message.open =
        (struct attach_open){.head = next_head(attach, ATTACH_OPEN), .shard = shard};
    attach->message_len = sizeof(attach->message.open);
    return send_message(attach, waiter_now_ns());
}

int64_t attachment_next_ns(const struct attachment *attach)
{
    return attach->waits ? attach->sent_ns + REMIND_NS : INT64_MAX;
}

int attachment_remind(struct attachment *attach, int64_t now_ns)
{
    int r = attach->waits ? send_message(attach, now_ns) : 0;

    if (r == -EAGAIN)
        attach->sent_ns = now_ns; /* what was sent before has not even been read */
    return r == -EAGAIN ? 0 : r;
}

/* ---- receiving ---- */

static bool is_text(const char *text, size_t bytes)
{
    return memchr(text, '\0', bytes) != NULL;
}

/* Whether an answer is one that may come now, with just the fd that belongs to it. */
static bool is_answer(
    const struct attachment *attach, const struct attachment_answer *answer, size_t len)
{
    bool has_fd = answer->fd >= 0;

    switch (answer->head.kind) {
    case ATTACH_WELCOME:
        return attach->message.head.kind == ATTACH_HELLO && len == sizeof(answer->welcome) &&
               has_fd && is_text(answer->welcome.instance, sizeof(answer->welcome.instance));
    case ATTACH_OPENED:
        return attach->message.head.kind == ATTACH_OPEN && len == sizeof(answer->opened) &&
               has_fd && answer->opened.shard == attach->message.open.shard;
    case ATTACH_REFUSED:
        return len == sizeof(answer->refused) && !has_fd && answer->refused.error < 0 &&
               is_text(answer->refused.text, sizeof(answer->refused.text));
    default:
        return false;
    }
}

/* Whether it is one that comes unasked. */
static bool is_news(const struct attachment_answer *answer, size_t len)
{
    if (answer->head.serial != 0 || answer->fd >= 0)
        return false;
    return answer->head.kind == ATTACH_CLOSED
               ? len == sizeof(answer->closed) && answer->closed.error < 0
               : answer->head.kind == ATTACH_REFUSED && len == sizeof(answer->refused) &&
                     answer->refused.error < 0 &&
                     is_text(answer->refused.text, sizeof(answer->refused.text));
}

/* The first fd, the others closed. */
static int take_fd(struct msghdr *message)
{
    int fd = -1;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; CMSG_LEN((i + 1) * sizeof(int)) <= c->cmsg_len; i++) {
            int each;
            memcpy(&each, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (fd < 0)
                fd = each;
            else
                close(each);
        }
    }
    return fd;
}

static int receive(struct attachment *attach, struct attachment_answer *ret_answer)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {
        &ret_answer->head, sizeof(*ret_answer) - offsetof(struct attachment_answer, head)};
    struct msghdr message = {.msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(attach->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
    ret_answer->fd = take_fd(&message);
    if (n == 0)
        return -ECONNRESET;
    return message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) || (size_t)n < sizeof(struct attach_head)
               ? -EPROTO
               : (int)n;
}

int attachment_receive(struct attachment *attach, struct attachment_answer *ret_answer)
{
    *ret_answer = (struct attachment_answer){.fd = -1};
    int n = receive(attach, ret_answer);
    if (n == 0)
        return 0;
    if (n > 0 && ret_answer->head.magic != ATTACH_MAGIC)
        n = -EPROTO;
    if (n > 0 && is_news(ret_answer, (size_t)n))
        return 1;
    /* One to a message that was sent twice. */
    bool is_old = n > 0 && (!attach->waits || ret_answer->head.serial != attach->serial);
    if (n > 0 && !is_old && !is_answer(attach, ret_answer, (size_t)n))
        n = -EPROTO;
    if (n > 0 && !is_old) {
        attach->waits = false;
        return 1;
    }
    if (ret_answer->fd >= 0)
        close(ret_answer->fd);
    return n > 0 ? attachment_receive(attach, ret_answer) : n;
}
