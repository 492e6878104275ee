// floorseed: the least a BitTorrent seeder can do. One thread, one epoll, one file, one torrent, no rules; what it
// costs is the floor that a real seeder is compared with.
//
//   floorseed PORT INFO_HASH PIECES TOTAL PIECE_LENGTH FILE MODE
//
// MODE says how blocks get from the file to the socket:
//   sendfile     header by send, data by sendfile, block by block
//   pread        one block at a time: pread into a scratch, send
//   mmap         one block at a time: writev from a mapping
//   preadbatch   up to eight requests: one preadv for those that follow each other, one send (the floor of the table)
//   mmapbatch    up to eight requests: one writev from a mapping
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { QUEUE = 1024, BATCH = 8, BLOCK = 16384, HEADER = 13, HANDSHAKE = 68 };

typedef struct {
    uint32_t piece, begin, length;
} Request;

typedef struct {
    int fd, shaken, wants_out, wants_in;
    uint8_t in[32768];
    size_t in_used;
    Request queue[QUEUE]; // a ring
    int head, queued;
    // The batch that is being sent: its requests, their headers, and how much of it is done.
    Request batch[BATCH];
    uint8_t header[BATCH][HEADER];
    int batched;
    size_t sent, batch_size;
    // Bytes that a full socket left over.
    uint8_t *rest;
    size_t rest_size;
} Peer;

static int file, poller, batch_limit;
static uint64_t total, piece_length;
static uint32_t pieces;
static uint8_t info_hash[20], *mapping;
static uint8_t scratch[BATCH * (HEADER + BLOCK)];
static enum { SENDFILE, READ, MAP } way;

static uint64_t offset_of(Request request) {
    return (uint64_t)request.piece * piece_length + request.begin;
}

static void watch_out(Peer *peer, int wants_out) {
    int wants_in = peer->in_used < sizeof peer->in;
    if (peer->wants_out == wants_out && peer->wants_in == wants_in) return;
    peer->wants_out = wants_out;
    peer->wants_in = wants_in;
    struct epoll_event event = {.events = (wants_in ? EPOLLIN : 0) | (wants_out ? EPOLLOUT : 0), .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
}

// What to return when a call on the socket failed: 0 to come back later, -1 to close.
static int later(Peer *peer) {
    if (errno != EAGAIN) return -1;
    watch_out(peer, 1);
    return 0;
}

static void take_batch(Peer *peer) {
    peer->batched = 0;
    peer->batch_size = peer->sent = 0;
    while (peer->batched < batch_limit && peer->queued) {
        Request request = peer->queue[peer->head];
        peer->head = (peer->head + 1) % QUEUE;
        peer->queued--;
        uint8_t *header = peer->header[peer->batched];
        uint32_t numbers[] = {htonl(9 + request.length), htonl(request.piece), htonl(request.begin)};
        memcpy(header, &numbers[0], 4);
        header[4] = 7;
        memcpy(header + 5, &numbers[1], 8);
        peer->batch[peer->batched++] = request;
        peer->batch_size += HEADER + request.length;
    }
}

// The three ways return 1 when the batch is done, 0 when the socket is full, -1 when it is broken.
static int send_by_sendfile(Peer *peer) {
    if (peer->sent < HEADER) {
        ssize_t count = send(peer->fd, peer->header[0] + peer->sent, HEADER - peer->sent, MSG_MORE | MSG_NOSIGNAL);
        if (count < 0) return later(peer);
        peer->sent += count;
    }
    while (peer->sent < peer->batch_size) {
        off_t offset = offset_of(peer->batch[0]) + (peer->sent - HEADER);
        ssize_t count = sendfile(peer->fd, file, &offset, peer->batch_size - peer->sent);
        if (count <= 0) return count < 0 ? later(peer) : -1;
        peer->sent += count;
    }
    return 1;
}

static int send_from_map(Peer *peer) {
    struct iovec parts[BATCH * 2];
    int used = 0;
    size_t skip = peer->sent;
    for (int i = 0; i < peer->batched; i++) {
        Request request = peer->batch[i];
        struct iovec both[2] = {{peer->header[i], HEADER}, {mapping + offset_of(request), request.length}};
        for (int j = 0; j < 2; j++) {
            if (skip >= both[j].iov_len) {
                skip -= both[j].iov_len;
                continue;
            }
            parts[used].iov_base = (char *)both[j].iov_base + skip;
            parts[used++].iov_len = both[j].iov_len - skip;
            skip = 0;
        }
    }
    ssize_t count = writev(peer->fd, parts, used);
    if (count < 0) return later(peer);
    peer->sent += count;
    if (peer->sent == peer->batch_size) return 1;
    watch_out(peer, 1);
    return 0;
}

static int send_by_read(Peer *peer) {
    uint8_t *end = scratch;
    for (int i = 0; i < peer->batched;) {
        struct iovec parts[BATCH];
        uint64_t begin = offset_of(peer->batch[i]), next = begin;
        int used = 0;
        for (; i < peer->batched && offset_of(peer->batch[i]) == next; i++) {
            memcpy(end, peer->header[i], HEADER);
            end += HEADER;
            parts[used].iov_base = end;
            parts[used++].iov_len = peer->batch[i].length;
            end += peer->batch[i].length;
            next += peer->batch[i].length;
        }
        if (preadv(file, parts, used, begin) != (ssize_t)(next - begin)) return -1;
    }
    ssize_t count = send(peer->fd, scratch, end - scratch, MSG_NOSIGNAL);
    if (count < 0) return later(peer);
    if (count < end - scratch) {
        peer->rest_size = (end - scratch) - count;
        peer->rest = realloc(peer->rest, peer->rest_size);
        memcpy(peer->rest, scratch + count, peer->rest_size);
        watch_out(peer, 1);
    }
    peer->sent = peer->batch_size;
    return peer->rest_size == 0;
}

static int messages(Peer *peer);

static int pump(Peer *peer) {
    for (;;) {
        if (peer->in_used && messages(peer)) return -1;
        if (peer->rest_size) {
            ssize_t count = send(peer->fd, peer->rest, peer->rest_size, MSG_NOSIGNAL);
            if (count < 0) return later(peer);
            memmove(peer->rest, peer->rest + count, peer->rest_size - count);
            peer->rest_size -= count;
            if (peer->rest_size) {
                watch_out(peer, 1);
                return 0;
            }
        }
        if (peer->sent == peer->batch_size) {
            if (!peer->queued) {
                watch_out(peer, 0);
                return 0;
            }
            take_batch(peer);
        }
        int done = way == SENDFILE ? send_by_sendfile(peer) : way == MAP ? send_from_map(peer) : send_by_read(peer);
        if (done <= 0) return done;
    }
}

// Answers the handshake with a whole bitfield and an unchoke; whoever speaks the extension protocol (BEP 10) is told how
// long the queue is, as some ask for little otherwise.
static int shake_hands(Peer *peer) {
    struct sockaddr_in here = {0};
    socklen_t here_size = sizeof here;
    char id[21];
    if (memcmp(peer->in + 28, info_hash, 20) || getsockname(peer->fd, (void *)&here, &here_size)) return -1;
    // At each address that it is reached by it is another peer.
    snprintf(id, sizeof id, "-FS0001-%012x", ntohl(here.sin_addr.s_addr));
    static const uint8_t unchoke_extended[] = "\0\0\0\1\1" "\0\0\0\25\24\0d1:mde4:reqqi1000ee";
    int extended = peer->in[25] & 0x10;
    size_t bits = (pieces + 7) / 8, last = extended ? sizeof unchoke_extended - 1 : 5;
    uint8_t *out = calloc(1, HANDSHAKE + 5 + bits + last);
    memcpy(out, peer->in, HANDSHAKE);
    memset(out + 20, 0, 8);
    out[25] = extended;
    memcpy(out + 48, id, 20);
    uint32_t length = htonl(1 + bits);
    memcpy(out + HANDSHAKE, &length, 4);
    out[HANDSHAKE + 4] = 5;
    memset(out + HANDSHAKE + 5, 0xff, bits);
    if (pieces % 8) out[HANDSHAKE + 5 + bits - 1] = 0xff << (8 - pieces % 8);
    memcpy(out + HANDSHAKE + 5 + bits, unchoke_extended, last);
    peer->rest = out;
    peer->rest_size = HANDSHAKE + 5 + bits + last;
    peer->shaken = 1;
    return 0;
}

static Request request_in(const uint8_t *body) {
    uint32_t numbers[3];
    memcpy(numbers, body, 12);
    return (Request){ntohl(numbers[0]), ntohl(numbers[1]), ntohl(numbers[2])};
}

static int request(Peer *peer, Request request) {
    if (request.length > BLOCK || offset_of(request) + request.length > total) return -1;
    peer->queue[(peer->head + peer->queued++) % QUEUE] = request;
    return 0;
}

static void cancel(Peer *peer, Request request) {
    for (int i = 0; i < peer->queued; i++) {
        Request *at = &peer->queue[(peer->head + i) % QUEUE];
        if (at->piece != request.piece || at->begin != request.begin) continue;
        for (; i < peer->queued - 1; i++)
            peer->queue[(peer->head + i) % QUEUE] = peer->queue[(peer->head + i + 1) % QUEUE];
        peer->queued--;
    }
}

// Takes what was received, as far as the queue has room.
static int messages(Peer *peer) {
    size_t at = 0;
    if (!peer->shaken) {
        if (peer->in_used < HANDSHAKE) return 0;
        if (shake_hands(peer)) return -1;
        at = HANDSHAKE;
    }
    while (peer->in_used - at >= 4 && peer->queued < QUEUE) {
        uint32_t length;
        memcpy(&length, peer->in + at, 4);
        length = ntohl(length);
        if (length + 4 > sizeof peer->in) return -1;
        if (peer->in_used - at < 4 + length) break;
        const uint8_t *body = peer->in + at + 4;
        if (length == 13 && body[0] == 6 && request(peer, request_in(body + 1))) return -1;
        if (length == 13 && body[0] == 8) cancel(peer, request_in(body + 1));
        at += 4 + length;
    }
    memmove(peer->in, peer->in + at, peer->in_used - at);
    peer->in_used -= at;
    return 0;
}

static int input(Peer *peer) {
    ssize_t count = recv(peer->fd, peer->in + peer->in_used, sizeof peer->in - peer->in_used, 0);
    if (count <= 0) return count < 0 && errno == EAGAIN ? 0 : -1;
    peer->in_used += count;
    return 0;
}

static void close_peer(Peer *peer) {
    close(peer->fd);
    free(peer->rest);
    free(peer);
}

static void accept_peer(int listener) {
    int fd = accept4(listener, 0, 0, SOCK_NONBLOCK), one = 1;
    if (fd < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    Peer *peer = calloc(1, sizeof *peer);
    peer->fd = fd;
    peer->wants_in = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (bind(fd, (void *)&address, sizeof address) || listen(fd, 1024)) {
        perror("bind");
        exit(1);
    }
    return fd;
}

int main(int count, char **word) {
    if (count != 8) {
        fprintf(stderr, "floorseed PORT INFO_HASH PIECES TOTAL PIECE_LENGTH FILE MODE\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 20; i++) sscanf(word[2] + 2 * i, "%2hhx", &info_hash[i]);
    pieces = atoi(word[3]);
    total = atoll(word[4]);
    piece_length = atoll(word[5]);
    file = open(word[6], O_RDONLY);
    if (file < 0) {
        perror(word[6]);
        return 1;
    }
    way = word[7][0] == 's' ? SENDFILE : word[7][0] == 'm' ? MAP : READ;
    batch_limit = strstr(word[7], "batch") ? BATCH : 1;
    if (way == MAP) mapping = mmap(0, total, PROT_READ, MAP_SHARED, file, 0);

    int listener = listen_on(atoi(word[1]));
    poller = epoll_create1(0);
    struct epoll_event first = {.events = EPOLLIN, .data.ptr = NULL}, events[128];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &first);
    for (;;) {
        int ready = epoll_wait(poller, events, 128, -1);
        for (int i = 0; i < ready; i++) {
            Peer *peer = events[i].data.ptr;
            if (!peer) {
                accept_peer(listener);
                continue;
            }
            int broken = 0;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) broken = input(peer);
            if (!broken) broken = pump(peer);
            if (broken) close_peer(peer);
        }
    }
}
