// leech: many BitTorrent peers in one cheap process. They keep requests outstanding and throw the data away, unhashed.
//
//   leech -H HOST -p PORT -i INFO_HASH -P PIECES -l PIECE_LENGTH -t TOTAL [-n CONNECTIONS] [-q OUTSTANDING]
//         [-b BYTES] [-T SECONDS] [-r BYTES_A_SECOND] [-s SOURCE] [-m leech|idle] [-N]
//
// Each connection has a source address of its own, counted up from SOURCE: most seeders take one connection an address.
// It ends after so many bytes or seconds and prints one line of JSON.
//   -r  every connection reads no faster than this, with a receive buffer as small as such a link has in flight
//   -m idle  shakes hands, says that it is interested, and is silent
//   -N  is not interested either
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 16384, HANDSHAKE = 68, SLOW_BUFFER = 65536 };

typedef struct {
    int fd, closed, unchoked, was_unchoked;
    enum { SHAKING, LENGTH, KIND, BODY } state;
    uint8_t head[HANDSHAKE];
    uint32_t head_used, length;
    uint64_t body_left;
    int outstanding;
    uint32_t piece, begin, piece_end;
    uint8_t *out;
    size_t out_used, out_size;
    uint64_t received;
    double allowance, asleep_until; // of a slow connection: bytes, seconds
} Peer;

static const char *host = "127.0.0.1", *source;
static int port, connections = 1, outstanding = 64, refill_at, idle, interested = 1;
static uint32_t pieces;
static uint64_t piece_length, total, wanted, rate;
static double patience = 60;
static uint8_t info_hash[20];
static uint64_t received, turn, stride = 1;
static int poller, closed, unchoked, shaken;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static uint64_t common_divisor(uint64_t a, uint64_t b) {
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// All connections share one walk over the pieces, in strides that leave none out.
static void next_piece(Peer *peer) {
    peer->piece = (turn++ * stride) % pieces;
    peer->begin = 0;
    uint64_t start = peer->piece * piece_length;
    peer->piece_end = total - start < piece_length ? total - start : piece_length;
}

static void close_peer(Peer *peer) {
    if (peer->closed) return;
    peer->closed = 1;
    close(peer->fd);
    closed++;
}

static void watch(Peer *peer, uint32_t what) {
    struct epoll_event event = {.events = what, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_MOD, peer->fd, &event);
}

static void flush(Peer *peer) {
    while (peer->out_used) {
        ssize_t count = send(peer->fd, peer->out, peer->out_used, MSG_NOSIGNAL);
        if (count < 0) {
            if (errno == EAGAIN || errno == ENOTCONN) watch(peer, EPOLLIN | EPOLLOUT);
            else close_peer(peer);
            return;
        }
        memmove(peer->out, peer->out + count, peer->out_used - count);
        peer->out_used -= count;
    }
}

static void put(Peer *peer, const void *bytes, size_t size) {
    if (peer->out_used + size > peer->out_size) {
        peer->out_size = (peer->out_used + size) * 2;
        peer->out = realloc(peer->out, peer->out_size);
    }
    memcpy(peer->out + peer->out_used, bytes, size);
    peer->out_used += size;
}

static void refill(Peer *peer) {
    if (!peer->unchoked || peer->closed) return;
    if (outstanding - peer->outstanding < refill_at && peer->outstanding > 0) return;
    while (peer->outstanding < outstanding) {
        if (peer->begin >= peer->piece_end) next_piece(peer);
        uint32_t length = peer->piece_end - peer->begin;
        if (length > BLOCK) length = BLOCK;
        uint8_t message[17];
        uint32_t numbers[] = {htonl(13), htonl(peer->piece), htonl(peer->begin), htonl(length)};
        memcpy(message, &numbers[0], 4);
        message[4] = 6;
        memcpy(message + 5, &numbers[1], 12);
        put(peer, message, sizeof message);
        peer->begin += length;
        peer->outstanding++;
    }
    flush(peer);
}

static void shook(Peer *peer) {
    if (memcmp(peer->head + 28, info_hash, 20)) {
        close_peer(peer);
        return;
    }
    shaken++;
    if (interested) {
        put(peer, (uint8_t[]){0, 0, 0, 1, 2}, 5);
        flush(peer);
    }
}

static void message(Peer *peer, uint8_t kind) {
    if (kind == 0 && peer->unchoked) {
        peer->unchoked = peer->outstanding = 0;
        unchoked--;
    } else if (kind == 1 && !peer->unchoked) {
        peer->unchoked = peer->was_unchoked = 1;
        unchoked++;
    } else if (kind == 7) {
        received += peer->length - 9;
        peer->received += peer->length - 9;
        if (peer->outstanding > 0) peer->outstanding--;
    }
}

static void parse(Peer *peer, const uint8_t *bytes, size_t left) {
    while (left && !peer->closed) {
        if (peer->state == BODY) {
            size_t count = left < peer->body_left ? left : peer->body_left;
            peer->body_left -= count;
            bytes += count;
            left -= count;
            if (!peer->body_left) peer->state = LENGTH;
            continue;
        }
        size_t need = peer->state == SHAKING ? HANDSHAKE : peer->state == LENGTH ? 4 : 1;
        size_t count = need - peer->head_used;
        if (count > left) count = left;
        memcpy(peer->head + peer->head_used, bytes, count);
        peer->head_used += count;
        bytes += count;
        left -= count;
        if (peer->head_used < need) return;
        peer->head_used = 0;
        if (peer->state == SHAKING) {
            peer->state = LENGTH;
            shook(peer);
        } else if (peer->state == LENGTH) {
            memcpy(&peer->length, peer->head, 4);
            peer->length = ntohl(peer->length);
            if (peer->length > 1u << 22) close_peer(peer);
            peer->state = peer->length ? KIND : LENGTH;
        } else {
            peer->body_left = peer->length - 1;
            peer->state = peer->body_left ? BODY : LENGTH;
            message(peer, peer->head[0]);
        }
    }
}

static void open_peer(Peer *peer, int number) {
    int one = 1, small = SLOW_BUFFER;
    peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(peer->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (rate) setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    if (source) {
        struct sockaddr_in from = {.sin_family = AF_INET};
        inet_aton(source, &from.sin_addr);
        from.sin_addr.s_addr = htonl(ntohl(from.sin_addr.s_addr) + ((number / 250) << 8) + 2 + number % 250);
        setsockopt(peer->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(peer->fd, (void *)&from, sizeof from)) {
            perror("bind");
            exit(1);
        }
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_aton(host, &to.sin_addr);
    if (connect(peer->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) {
        close_peer(peer);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = peer};
    epoll_ctl(poller, EPOLL_CTL_ADD, peer->fd, &event);
    uint8_t hello[HANDSHAKE] = "\x13" "BitTorrent protocol";
    char id[21];
    memcpy(hello + 28, info_hash, 20);
    snprintf(id, sizeof id, "-XL0001-%012d", number * 7919 + getpid());
    memcpy(hello + 48, id, 20);
    put(peer, hello, sizeof hello);
}

// Reads what there is; a slow connection only what its link would have brought by now, and then sleeps.
static void input(Peer *peer) {
    static uint8_t buffer[1 << 18];
    size_t most = sizeof buffer;
    double time = now();
    if (rate) {
        peer->allowance += (time - peer->asleep_until) * rate;
        if (peer->allowance > 32768) peer->allowance = 32768;
        peer->asleep_until = time;
        most = peer->allowance < 1 ? 1 : peer->allowance;
    }
    ssize_t count = recv(peer->fd, buffer, most, 0);
    if (count <= 0) {
        if (count == 0 || errno != EAGAIN) close_peer(peer);
        return;
    }
    parse(peer, buffer, count);
    if (!idle) refill(peer);
    if (rate && !peer->closed) {
        peer->allowance -= count;
        if (peer->allowance < 1448) {
            // Until a few segments fit. Time asleep earns its bytes here, so the clock restarts at waking.
            double rest = (8192 - peer->allowance) / rate;
            peer->allowance = 8192;
            peer->asleep_until = time + rest;
            watch(peer, peer->out_used ? EPOLLOUT : 0);
        }
    }
}

static void options(int count, char **word) {
    int option;
    while ((option = getopt(count, word, "H:p:i:P:l:t:n:q:b:T:r:s:m:N")) > 0) switch (option) {
        case 'H': host = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'i': for (int i = 0; i < 20; i++) sscanf(optarg + 2 * i, "%2hhx", &info_hash[i]); break;
        case 'P': pieces = atoi(optarg); break;
        case 'l': piece_length = atoll(optarg); break;
        case 't': total = atoll(optarg); break;
        case 'n': connections = atoi(optarg); break;
        case 'q': outstanding = atoi(optarg); break;
        case 'b': wanted = atoll(optarg); break;
        case 'T': patience = atof(optarg); break;
        case 'r': rate = atoll(optarg); break;
        case 's': source = optarg; break;
        case 'm': idle = !strcmp(optarg, "idle"); break;
        case 'N': interested = 0; break;
        default: exit(2);
        }
    refill_at = outstanding / 4 > 0 ? outstanding / 4 : 1;
    if (pieces) {
        stride = pieces * 0.6180339887;
        if (!stride) stride = 1;
        while (common_divisor(stride, pieces) != 1) stride++;
    }
}

int main(int count, char **word) {
    options(count, word);
    struct rlimit files = {20000, 20000};
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(0);
    Peer *peers = calloc(connections, sizeof *peers);
    double start = now(), time = start;
    int opened = 0;
    while (time - start < patience && (!wanted || idle || received < wanted) && closed < connections) {
        // Not all at once: a listening queue is finite.
        for (int most = (time - start) * 2000 + 20; opened < connections && opened < most; opened++)
            open_peer(&peers[opened], opened);
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, opened < connections || rate ? 5 : 200);
        for (int i = 0; i < ready; i++) {
            Peer *peer = events[i].data.ptr;
            if (peer->closed) continue;
            int asleep = rate && peer->asleep_until > now();
            if (events[i].events & EPOLLOUT) {
                watch(peer, asleep ? 0 : EPOLLIN);
                flush(peer);
            }
            if (!peer->closed && !asleep && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) input(peer);
            if (asleep && events[i].events & (EPOLLHUP | EPOLLERR)) close_peer(peer);
        }
        double before = time;
        time = now();
        for (int i = 0; rate && i < opened; i++)
            if (!peers[i].closed && peers[i].asleep_until > before && peers[i].asleep_until <= time)
                watch(&peers[i], EPOLLIN | (peers[i].out_used ? EPOLLOUT : 0));
    }
    uint64_t least = UINT64_MAX, most = 0;
    int ever_unchoked = 0;
    for (int i = 0; i < connections; i++) {
        ever_unchoked += peers[i].was_unchoked;
        if (peers[i].received < least) least = peers[i].received;
        if (peers[i].received > most) most = peers[i].received;
    }
    printf("{\"bytes\": %llu, \"seconds\": %.3f, \"connections\": %d, \"shaken\": %d, \"closed\": %d, "
           "\"unchoked\": %d, \"ever_unchoked\": %d, \"least\": %llu, \"most\": %llu}\n",
           (unsigned long long)received, time - start, connections, shaken, closed, unchoked, ever_unchoked,
           (unsigned long long)least, (unsigned long long)most);
    return 0;
}
