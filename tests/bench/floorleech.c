// floorleech: the least a BitTorrent client that downloads can do. One thread, one epoll, one file, one torrent, no
// rules; what it costs is the floor that a real one is compared with.
//
//   floorleech INFO_HASH PIECES TOTAL PIECE_LENGTH DIGESTS FILE ADDRESS:PORT...
//
// It connects to each of the seeds, takes whole pieces from each in turn with 64 requests outstanding a connection,
// writes what comes straight from the receive buffer into a sparse file, hashes it from there in order, and compares with
// DIGESTS, the torrent's `pieces` in a file. When it has everything it prints one line of JSON and ends.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 16384, HANDSHAKE = 68, OUTSTANDING = 64, DIGEST = 20, RUN = 64, PATIENCE = 120 };
// Larger is slower: what was received has left the processor's cache before it is hashed and written.
#ifndef BUFFER
#define BUFFER (128 * 1024)
#endif

typedef struct {
    int fd;
    enum { SHAKING, LENGTH, KIND, PLACE, BODY } state;
    uint8_t head[HANDSHAKE];
    size_t head_used;
    uint32_t length, piece; // of the message that is being read
    uint64_t offset, left;
    int is_piece, unchoked, outstanding;
    uint32_t asked_piece, asked, asked_end; // where to ask on
    EVP_MD_CTX *hash;
    uint64_t hashed;
} Peer;

static int file;
static uint32_t pieces, turn, whole;
static uint64_t total, piece_length, received;
static uint8_t info_hash[DIGEST], *digests;
static struct iovec run[RUN];
static int run_parts;
static uint64_t run_at, run_size;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t size_of(uint32_t piece) {
    uint64_t start = piece * piece_length;
    return total - start < piece_length ? total - start : piece_length;
}

// Writes the run of bytes that follow each other in the file.
static void write_run(void) {
    if (run_parts && pwritev(file, run, run_parts, run_at) != (ssize_t)run_size) fail("pwritev");
    run_parts = 0;
    run_size = 0;
}

static void keep(Peer *peer, uint8_t *bytes, size_t size) {
    if (run_parts == RUN || run_at + run_size != peer->offset) write_run();
    if (!run_parts) run_at = peer->offset;
    run[run_parts++] = (struct iovec){bytes, size};
    run_size += size;
    received += size;
    if (!peer->hashed) EVP_DigestInit_ex(peer->hash, EVP_sha1(), NULL);
    EVP_DigestUpdate(peer->hash, bytes, size);
    peer->hashed += size;
    if (peer->hashed < size_of(peer->piece)) return;
    uint8_t digest[DIGEST];
    EVP_DigestFinal_ex(peer->hash, digest, NULL);
    if (memcmp(digest, digests + (size_t)peer->piece * DIGEST, DIGEST)) {
        fprintf(stderr, "piece %u is not what it should be\n", peer->piece);
        exit(1);
    }
    peer->hashed = 0;
    whole++;
}

static void ask(Peer *peer) {
    static uint8_t out[OUTSTANDING * 17];
    size_t used = 0;
    // In batches: one packet for many requests.
    if (!peer->unchoked || peer->outstanding > OUTSTANDING * 3 / 4) return;
    while (peer->outstanding < OUTSTANDING) {
        if (peer->asked == peer->asked_end) {
            if (turn == pieces) break;
            peer->asked_piece = turn++;
            peer->asked = 0;
            peer->asked_end = size_of(peer->asked_piece);
        }
        uint32_t size = peer->asked_end - peer->asked;
        if (size > BLOCK) size = BLOCK;
        uint32_t numbers[] = {htonl(13), htonl(peer->asked_piece), htonl(peer->asked), htonl(size)};
        memcpy(out + used, &numbers[0], 4);
        out[used + 4] = 6;
        memcpy(out + used + 5, &numbers[1], 12);
        used += 17;
        peer->asked += size;
        peer->outstanding++;
    }
    // So little fits into the socket's buffer at any time.
    if (used && send(peer->fd, out, used, MSG_NOSIGNAL) != (ssize_t)used) fail("send");
}

// Takes `need` bytes of a header together, from one read or several.
static int gathered(Peer *peer, size_t need, uint8_t **bytes, size_t *left) {
    size_t count = need - peer->head_used < *left ? need - peer->head_used : *left;
    memcpy(peer->head + peer->head_used, *bytes, count);
    peer->head_used += count;
    *bytes += count;
    *left -= count;
    if (peer->head_used < need) return 0;
    peer->head_used = 0;
    return 1;
}

static uint32_t number(const uint8_t *bytes) {
    uint32_t value;
    memcpy(&value, bytes, 4);
    return ntohl(value);
}

static void parse(Peer *peer, uint8_t *bytes, size_t left) {
    static const size_t need[] = {HANDSHAKE, 4, 1, 8};
    while (left) {
        if (peer->state == BODY) {
            size_t count = left < peer->left ? left : peer->left;
            if (peer->is_piece) keep(peer, bytes, count);
            peer->offset += count;
            peer->left -= count;
            bytes += count;
            left -= count;
            if (!peer->left) {
                peer->outstanding -= peer->is_piece;
                peer->state = LENGTH;
            }
            continue;
        }
        if (!gathered(peer, need[peer->state], &bytes, &left)) return;
        switch (peer->state) {
        case SHAKING:
            if (memcmp(peer->head + 28, info_hash, DIGEST)) fail("handshake");
            peer->state = LENGTH;
            break;
        case LENGTH:
            peer->length = number(peer->head);
            peer->state = peer->length ? KIND : LENGTH;
            break;
        case KIND:
            peer->left = peer->length - 1;
            peer->is_piece = peer->head[0] == 7;
            if (peer->head[0] == 1) peer->unchoked = 1;
            peer->state = peer->is_piece ? PLACE : peer->left ? BODY : LENGTH;
            break;
        default:
            peer->piece = number(peer->head);
            peer->offset = peer->piece * piece_length + number(peer->head + 4);
            peer->left -= 8;
            peer->state = BODY;
        }
    }
}

static void open_peer(Peer *peer, int poller, char *seed) {
    int one = 1;
    char *port = strchr(seed, ':');
    if (!port) fail(seed);
    *port++ = 0;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    inet_aton(seed, &to.sin_addr);
    peer->fd = socket(AF_INET, SOCK_STREAM, 0);
    peer->hash = EVP_MD_CTX_new();
    if (connect(peer->fd, (void *)&to, sizeof to)) fail("connect");
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(peer->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_ADD, peer->fd, &event);
    uint8_t hello[HANDSHAKE + 5] = "\x13" "BitTorrent protocol";
    memcpy(hello + 28, info_hash, DIGEST);
    memcpy(hello + 48, "-FL0001-abcdefghijkl", 20);
    memcpy(hello + HANDSHAKE, (uint8_t[]){0, 0, 0, 1, 2}, 5); // interested
    if (send(peer->fd, hello, sizeof hello, MSG_NOSIGNAL) != sizeof hello) fail("send");
}

static double seconds(struct timeval time) {
    return time.tv_sec + time.tv_usec * 1e-6;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

int main(int count, char **word) {
    static uint8_t buffer[BUFFER];
    if (count < 8) {
        fprintf(stderr, "floorleech INFO_HASH PIECES TOTAL PIECE_LENGTH DIGESTS FILE ADDRESS:PORT...\n");
        return 2;
    }
    for (int i = 0; i < DIGEST; i++) sscanf(word[1] + 2 * i, "%2hhx", &info_hash[i]);
    pieces = atoi(word[2]);
    total = atoll(word[3]);
    piece_length = atoll(word[4]);
    digests = malloc((size_t)pieces * DIGEST);
    FILE *known = fopen(word[5], "rb");
    if (!known || fread(digests, DIGEST, pieces, known) != pieces) fail(word[5]);
    file = open(word[6], O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (file < 0 || ftruncate(file, total)) fail(word[6]);
    alarm(PATIENCE);

    double start = now();
    int poller = epoll_create1(0), peers = count - 7;
    Peer *peer = calloc(peers, sizeof *peer);
    for (int i = 0; i < peers; i++) open_peer(&peer[i], poller, word[7 + i]);
    while (whole < pieces) {
        struct epoll_event events[64];
        int ready = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            Peer *from = events[i].data.ptr;
            ssize_t size = recv(from->fd, buffer, sizeof buffer, 0);
            if (size < 0 && errno == EAGAIN) continue;
            if (size <= 0) fail("recv");
            parse(from, buffer, size);
            write_run();
            ask(from);
        }
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("{\"bytes\": %llu, \"seconds\": %.3f, \"user\": %.3f, \"system\": %.3f, \"switches\": %ld, \"resident\": %ld}\n",
           (unsigned long long)received, now() - start, seconds(used.ru_utime), seconds(used.ru_stime),
           used.ru_nvcsw + used.ru_nivcsw, used.ru_maxrss);
    return 0;
}
