/* Emulates a path between two network namespaces: a TUN device in each, and between them, in each
 * direction, a bottleneck with a rate and a queue, a delay, and random loss.
 *
 *     path NAMESPACE NAMESPACE DELAY_US LOSS_PPM RATE_BYTES QUEUE_US SEED [OPTION=NUMBER ...]
 *
 * DELAY_US is the delay of one direction. A datagram that would wait longer than QUEUE_US is dropped.
 * LOSS_PPM of a million datagrams are lost after the bottleneck, as on a radio link. The losses
 * depend only on the seed. Options:
 *
 *     mark=US       mark ECN-capable datagrams that wait longer with Congestion Experienced (RFC 3168)
 *     ecn=FAULT     1: clear the ECN field, 2: set it to ECT(1), 3: drop ECN-capable datagrams
 *     late=PPM      delay that many of a million datagrams longer, so that later ones overtake them
 *     late_us=US    by this time
 *
 * The devices offload segmentation as network cards do (TSO, and USO where the kernel has it): a host
 * gives many datagrams in one piece, the path treats each one by itself, and datagrams of one piece
 * that arrive together reach the other host in one piece (GRO). Without that, the emulator would take
 * a large share of the processor from the hosts that it connects.
 *
 * Prints "ready" when the devices exist. At the end (SIGTERM) it prints for each direction how many
 * datagrams were delivered, lost, dropped, marked and delayed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 2048, SLOTS = 1 << 15, BATCH = 64, PIECE = 65535, SEGMENTS = 128 };
static const char device[] = "wan0";
static const uint64_t second = 1000000000;

/* A process that sleeps wakes up 50 to 150 us late. So the emulator polls while at most FEW datagrams
 * are in transit and the last one came less than `recent` ago: an idle path adds nothing to its delay.
 * On a busy path that would take a core from the processes at the ends. */
enum { FEW = 4 };
static const uint64_t recent = 200000000;

/* Newer than some headers. The kernel takes USO for IPv4 and IPv6 together or not at all; the hosts have
 * IPv4 addresses, so a piece is an IPv4 packet. */
enum { OFFLOAD_USO = 0x20 | 0x40, GSO_UDP = 5 };

/* The offload header of a TUN device, and the packet that follows it. */
struct piece {
    struct virtio_net_hdr offload;
    unsigned char bytes[PIECE];
};

struct datagram {
    uint64_t due;
    uint64_t piece; /* the piece of which it is a segment; 0 if none */
    unsigned index; /* in the piece */
    int size;
    struct virtio_net_hdr offload;
    unsigned char bytes[LARGEST];
};

/* A device takes and gives the header and the packet in one buffer. */
_Static_assert(offsetof(struct piece, bytes) == sizeof(struct virtio_net_hdr), "padding");
_Static_assert(offsetof(struct datagram, bytes) - offsetof(struct datagram, offload) ==
                   sizeof(struct virtio_net_hdr),
               "padding");

/* Datagrams that have passed the bottleneck and are in transit, in the order of their due times. */
struct ring {
    struct datagram *slots;
    unsigned head, tail;
};

struct direction {
    int in, out;
    struct ring rings[2]; /* those on time and the late ones */
    uint64_t free_at;
    uint64_t chance;
    uint64_t pieces;
    unsigned long sent, lost, dropped, marked, delayed;
};

enum fault { NO_FAULT, BLEACH, MANGLE, DROP };
enum { NOT_ECT, ECT1, ECT0, CE };

struct settings {
    uint64_t delay, queue, loss_ppm, mark, late_ppm, late;
    unsigned fault;
    double nanoseconds_a_byte;
};

static volatile sig_atomic_t stopped;

static void stop(int signal) {
    (void)signal;
    stopped = 1;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t clock_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * second + (uint64_t)now.tv_nsec;
}

static int device_in(const char *space) {
    char name[256];
    snprintf(name, sizeof name, "/var/run/netns/%s", space);
    int handle = open(name, O_RDONLY | O_CLOEXEC);
    if (handle < 0 || setns(handle, CLONE_NEWNET)) fail(name);
    close(handle);
    int tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (tun < 0) fail("/dev/net/tun");
    struct ifreq request;
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, device, sizeof device);
    request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(tun, TUNSETIFF, &request)) fail(device);
    unsigned long tcp = TUN_F_CSUM | TUN_F_TSO4;
    if (ioctl(tun, TUNSETOFFLOAD, tcp | OFFLOAD_USO) && ioctl(tun, TUNSETOFFLOAD, tcp))
        fail("TUNSETOFFLOAD");
    return tun;
}

/* splitmix64 */
static uint64_t draw(uint64_t *state) {
    uint64_t value = *state += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

/* The ECN field of an IP packet (RFC 3168, 5; RFC 2460, 7). */
static unsigned ecn_of(const unsigned char *packet) {
    return (packet[0] >> 4 == 4 ? packet[1] : packet[1] >> 4) & 3;
}

static void set_ecn(unsigned char *packet, unsigned ecn) {
    if (packet[0] >> 4 != 4) {
        packet[1] = (unsigned char)((packet[1] & 0xcf) | ecn << 4);
        return;
    }
    /* The header checksum is updated (RFC 1624). */
    uint32_t before = (uint32_t)packet[0] << 8 | packet[1];
    packet[1] = (unsigned char)((packet[1] & 0xfc) | ecn);
    uint32_t after = (uint32_t)packet[0] << 8 | packet[1];
    uint32_t sum = (uint32_t)packet[10] << 8 | packet[11];
    sum = (~sum & 0xffff) + (~before & 0xffff) + after;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~(sum + (sum >> 16)) & 0xffff;
    packet[10] = (unsigned char)(sum >> 8);
    packet[11] = (unsigned char)sum;
}

/* Applies faults and marks to the ECN field. Returns whether the path drops the datagram. */
static int treat_ecn(struct direction *way, const struct settings *path, unsigned char *packet,
                     uint64_t waits) {
    unsigned ecn = ecn_of(packet);
    if (ecn == NOT_ECT) return 0;
    if (path->fault == DROP) return 1;
    if (path->fault == BLEACH) set_ecn(packet, NOT_ECT);
    else if (path->fault == MANGLE) set_ecn(packet, ECT1);
    else if (waits > path->mark) {
        set_ecn(packet, CE);
        way->marked++;
    }
    return 0;
}

static unsigned word(const unsigned char *at) { return (unsigned)at[0] << 8 | at[1]; }

static void set_word(unsigned char *at, unsigned value) {
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

/* The Internet checksum without the final complement (RFC 1071). */
static unsigned sum_of(const unsigned char *bytes, unsigned size, unsigned sum) {
    for (unsigned at = 0; at < size; at += 2) sum += word(bytes + at);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

enum { FIN = 1, PUSH = 8, CWR = 128 };

static unsigned ip_header(const unsigned char *packet) { return (packet[0] & 15u) * 4; }

/* The size of the headers that each segment of a TCP or UDP packet has. */
static unsigned headers(const unsigned char *packet) {
    unsigned ip = ip_header(packet);
    return packet[9] == IPPROTO_UDP ? ip + 8 : ip + (packet[ip + 12] >> 4) * 4u;
}

/* Sets the lengths and checksums of an IPv4 packet of `size` bytes. That of TCP or UDP is the sum of
 * the pseudo header, to which the kernel adds the rest if it needs it. */
static void finish(struct virtio_net_hdr *offload, unsigned char *packet, unsigned size) {
    unsigned ip = ip_header(packet), is_udp = packet[9] == IPPROTO_UDP;
    set_word(packet + 2, size);
    set_word(packet + 10, 0);
    set_word(packet + 10, ~sum_of(packet, ip, 0) & 0xffff);
    if (is_udp) set_word(packet + ip + 4, size - ip);
    offload->flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    offload->csum_start = (uint16_t)ip;
    offload->csum_offset = is_udp ? 6 : 16;
    set_word(packet + ip + offload->csum_offset, sum_of(packet + 12, 8, packet[9] + size - ip));
}

/* Makes the segment with this index of a piece. */
static void cut(const struct piece *piece, unsigned size, unsigned index, struct datagram *segment) {
    unsigned head = headers(piece->bytes), step = piece->offload.gso_size;
    unsigned begin = head + index * step, end = begin + step < size ? begin + step : size;
    unsigned char *packet = segment->bytes;
    memset(&segment->offload, 0, sizeof segment->offload);
    memcpy(packet, piece->bytes, head);
    memcpy(packet + head, piece->bytes + begin, end - begin);
    segment->index = index;
    segment->size = (int)(head + end - begin);
    set_word(packet + 4, word(packet + 4) + index);
    if (packet[9] == IPPROTO_TCP) {
        unsigned char *tcp = packet + ip_header(packet);
        uint32_t number = ((uint32_t)word(tcp + 4) << 16 | word(tcp + 6)) + index * step;
        set_word(tcp + 4, number >> 16);
        set_word(tcp + 6, number & 0xffff);
        if (end < size) tcp[13] &= (unsigned char)~(FIN | PUSH);
        if (index) tcp[13] &= (unsigned char)~CWR;
    }
    finish(&segment->offload, packet, (unsigned)segment->size);
}

/* Whether `next` follows `last` in the same piece, and both have the same ECN field. */
static int follows(const struct datagram *last, const struct datagram *next) {
    return last->piece && last->piece == next->piece && last->index + 1 == next->index &&
           last->bytes[1] == next->bytes[1] && next->size <= last->size;
}

/* Joins the datagrams at the head of the ring that arrive together. Returns how many; 1 if the first
 * one goes alone. */
static unsigned join(const struct ring *ring, uint64_t now, struct piece *piece, unsigned *size) {
    const struct datagram *first = &ring->slots[ring->head % SLOTS], *last = first;
    unsigned count = 1, head = first->piece ? headers(first->bytes) : 0;
    *size = (unsigned)first->size;
    while (ring->head + count != ring->tail && last->size == first->size) {
        const struct datagram *next = &ring->slots[(ring->head + count) % SLOTS];
        unsigned more = (unsigned)next->size - head;
        if (next->due > now || !follows(last, next) || *size + more > PIECE) break;
        if (count == 1) memcpy(piece->bytes, first->bytes, *size);
        memcpy(piece->bytes + *size, next->bytes + head, more);
        *size += more;
        last = next;
        count++;
    }
    if (count == 1) return 1;
    unsigned is_udp = first->bytes[9] == IPPROTO_UDP, ip = ip_header(first->bytes);
    memset(&piece->offload, 0, sizeof piece->offload);
    piece->offload.gso_type = is_udp ? GSO_UDP : VIRTIO_NET_HDR_GSO_TCPV4;
    piece->offload.gso_size = (uint16_t)((unsigned)first->size - head);
    piece->offload.hdr_len = (uint16_t)head;
    if (!is_udp) piece->bytes[ip + 13] |= last->bytes[ip + 13] & (FIN | PUSH);
    finish(&piece->offload, piece->bytes, *size);
    return count;
}

/* Passes the datagram in the next free slot through the bottleneck. */
static void admit(struct direction *way, const struct settings *path, uint64_t now) {
    struct ring *ring = &way->rings[0];
    struct datagram *slot = &ring->slots[ring->tail % SLOTS];
    uint64_t begin = way->free_at > now ? way->free_at : now;
    if (begin - now > path->queue || treat_ecn(way, path, slot->bytes, begin - now)) {
        way->dropped++;
        return;
    }
    way->free_at = begin + (uint64_t)((double)slot->size * path->nanoseconds_a_byte);
    if (draw(&way->chance) % 1000000 < path->loss_ppm) {
        way->lost++;
        return;
    }
    slot->due = way->free_at + path->delay;
    if (path->late_ppm && draw(&way->chance) % 1000000 < path->late_ppm) {
        struct datagram *late = &way->rings[1].slots[way->rings[1].tail++ % SLOTS];
        *late = *slot;
        late->due += path->late;
        way->delayed++;
    } else {
        ring->tail++;
    }
}

static int has_room(const struct ring *ring) {
    return ring->tail - ring->head <= SLOTS - SEGMENTS;
}

/* Returns when the last datagram came; 0 if none did. */
static uint64_t take(struct direction *way, const struct settings *path) {
    static struct piece piece;
    struct ring *ring = &way->rings[0];
    uint64_t now = 0;
    for (int count = 0; count < BATCH && has_room(ring) && has_room(&way->rings[1]); count++) {
        ssize_t got = read(way->in, &piece, sizeof piece);
        if (got <= (ssize_t)sizeof piece.offload) break;
        now = clock_now();
        unsigned size = (unsigned)got - (unsigned)sizeof piece.offload;
        if (piece.offload.gso_type == VIRTIO_NET_HDR_GSO_NONE) {
            if (size > LARGEST) continue;
            struct datagram *slot = &ring->slots[ring->tail % SLOTS];
            slot->piece = 0;
            slot->size = (int)size;
            memcpy(&slot->offload, &piece, (size_t)got);
            admit(way, path, now);
            continue;
        }
        way->pieces++;
        unsigned head = headers(piece.bytes);
        for (unsigned at = head, index = 0; at < size; at += piece.offload.gso_size, index++) {
            struct datagram *slot = &ring->slots[ring->tail % SLOTS];
            slot->piece = way->pieces;
            cut(&piece, size, index, slot);
            admit(way, path, now);
        }
    }
    return now;
}

static void give(struct direction *way) {
    static struct piece piece;
    uint64_t now = clock_now();
    for (int each = 0; each < 2; each++) {
        struct ring *ring = &way->rings[each];
        while (ring->head != ring->tail) {
            struct datagram *first = &ring->slots[ring->head % SLOTS];
            if (first->due > now) break;
            unsigned size, count = join(ring, now, &piece, &size);
            const void *bytes = count > 1 ? (void *)&piece : (void *)&first->offload;
            if (write(way->out, bytes, sizeof piece.offload + size) < 0 && errno == EAGAIN) return;
            way->sent += count;
            ring->head += count;
        }
        /* An idle path uses the same memory again and again, which is mapped and in the cache. */
        if (ring->head == ring->tail) ring->head = ring->tail = 0;
    }
}

static unsigned in_transit(const struct direction *ways) {
    unsigned count = 0;
    for (int each = 0; each < 4; each++) {
        const struct ring *ring = &ways[each / 2].rings[each % 2];
        count += ring->tail - ring->head;
    }
    return count;
}

static uint64_t next_due(const struct direction *ways, uint64_t latest) {
    for (int each = 0; each < 4; each++) {
        const struct ring *ring = &ways[each / 2].rings[each % 2];
        if (ring->head != ring->tail && ring->slots[ring->head % SLOTS].due < latest)
            latest = ring->slots[ring->head % SLOTS].due;
    }
    return latest;
}

static void run(struct direction *ways, const struct settings *path) {
    struct pollfd devices[2] = {{ways[0].in, POLLIN, 0}, {ways[1].in, POLLIN, 0}};
    uint64_t last = 0;
    while (!stopped) {
        uint64_t now = clock_now(), due = next_due(ways, now + second / 20);
        if (now - last < recent && in_transit(ways) <= FEW) due = now;
        uint64_t wait = due > now ? due - now : 0;
        struct timespec pause = {(time_t)(wait / second), (long)(wait % second)};
        ppoll(devices, 2, &pause, NULL);
        for (int each = 0; each < 2; each++) {
            uint64_t came = take(&ways[each], path);
            if (came) last = came;
            give(&ways[each]);
        }
    }
}

/* Takes one OPTION=NUMBER. Returns whether it is known. */
static int take_option(struct settings *path, const char *word) {
    unsigned long long number;
    if (sscanf(word, "mark=%llu", &number) == 1) path->mark = number * 1000;
    else if (sscanf(word, "ecn=%llu", &number) == 1) path->fault = (unsigned)number;
    else if (sscanf(word, "late=%llu", &number) == 1) path->late_ppm = number;
    else if (sscanf(word, "late_us=%llu", &number) == 1) path->late = number * 1000;
    else return 0;
    return 1;
}

static int usage(void) {
    fprintf(stderr, "usage: path NAMESPACE NAMESPACE DELAY_US LOSS_PPM RATE_BYTES QUEUE_US SEED "
                    "[OPTION=NUMBER ...]\n");
    return 2;
}

int main(int count, char **words) {
    if (count < 8) return usage();
    struct settings path = {
        .delay = strtoull(words[3], NULL, 10) * 1000,
        .loss_ppm = strtoull(words[4], NULL, 10),
        .nanoseconds_a_byte = 1e9 / strtod(words[5], NULL),
        .queue = strtoull(words[6], NULL, 10) * 1000,
        .mark = UINT64_MAX,
    };
    for (int each = 8; each < count; each++)
        if (!take_option(&path, words[each])) return usage();
    uint64_t seed = strtoull(words[7], NULL, 10);
    int one = device_in(words[1]), other = device_in(words[2]);
    struct direction ways[2] = {{.in = one, .out = other, .chance = seed},
                                {.in = other, .out = one, .chance = ~seed}};
    for (int each = 0; each < 4; each++) {
        struct ring *ring = &ways[each / 2].rings[each % 2];
        ring->slots = malloc(sizeof(struct datagram) * SLOTS);
        if (!ring->slots) fail("malloc");
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    run(ways, &path);
    for (int each = 0; each < 2; each++)
        printf("%lu %lu %lu %lu %lu\n", ways[each].sent, ways[each].lost, ways[each].dropped,
               ways[each].marked, ways[each].delayed);
    return 0;
}
