/* Emulates a path between two network namespaces: a TUN device in each, and between them, in each
 * direction, a bottleneck with a rate and a queue, a delay, and random loss.
 *
 *     path NAMESPACE NAMESPACE DELAY_US LOSS_PPM RATE_BYTES QUEUE_US SEED
 *
 * DELAY_US is the delay of one direction. A datagram that would wait longer than QUEUE_US is dropped.
 * LOSS_PPM of a million datagrams are lost after the bottleneck, as on a radio link. The losses
 * depend only on the seed. Prints "ready" when the devices exist, and counts at the end (SIGTERM).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { LARGEST = 2048, SLOTS = 1 << 15, BATCH = 64 };
static const char device[] = "wan0";
static const uint64_t second = 1000000000;

struct datagram {
    uint64_t due;
    int size;
    unsigned char bytes[LARGEST];
};

/* One direction: a ring of datagrams that have passed the bottleneck and are in transit. */
struct direction {
    int in, out;
    struct datagram *ring;
    unsigned head, tail;
    uint64_t free_at;
    uint64_t chance;
    unsigned long sent, lost, dropped;
};

struct settings {
    uint64_t delay, queue, loss_ppm;
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
    request.ifr_flags = IFF_TUN | IFF_NO_PI;
    if (ioctl(tun, TUNSETIFF, &request)) fail(device);
    return tun;
}

/* splitmix64 */
static uint64_t draw(uint64_t *state) {
    uint64_t value = *state += 0x9e3779b97f4a7c15u;
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9u;
    value = (value ^ value >> 27) * 0x94d049bb133111ebu;
    return value ^ value >> 31;
}

static void take(struct direction *way, const struct settings *path) {
    for (int count = 0; count < BATCH && way->tail - way->head < SLOTS; count++) {
        struct datagram *slot = &way->ring[way->tail % SLOTS];
        ssize_t size = read(way->in, slot->bytes, LARGEST);
        if (size <= 0) return;
        uint64_t now = clock_now();
        uint64_t begin = way->free_at > now ? way->free_at : now;
        if (begin - now > path->queue) {
            way->dropped++;
            continue;
        }
        way->free_at = begin + (uint64_t)((double)size * path->nanoseconds_a_byte);
        if (draw(&way->chance) % 1000000 < path->loss_ppm) {
            way->lost++;
            continue;
        }
        slot->size = (int)size;
        slot->due = way->free_at + path->delay;
        way->tail++;
    }
}

static void give(struct direction *way) {
    uint64_t now = clock_now();
    while (way->head != way->tail) {
        struct datagram *first = &way->ring[way->head % SLOTS];
        if (first->due > now) return;
        if (write(way->out, first->bytes, (size_t)first->size) < 0 && errno == EAGAIN) return;
        way->sent++;
        way->head++;
    }
}

static uint64_t next_due(const struct direction *ways, uint64_t latest) {
    for (int each = 0; each < 2; each++) {
        const struct direction *way = &ways[each];
        if (way->head != way->tail && way->ring[way->head % SLOTS].due < latest)
            latest = way->ring[way->head % SLOTS].due;
    }
    return latest;
}

static void run(struct direction *ways, const struct settings *path) {
    struct pollfd devices[2] = {{ways[0].in, POLLIN, 0}, {ways[1].in, POLLIN, 0}};
    while (!stopped) {
        uint64_t now = clock_now(), due = next_due(ways, now + second / 20);
        uint64_t wait = due > now ? due - now : 0;
        struct timespec pause = {(time_t)(wait / second), (long)(wait % second)};
        ppoll(devices, 2, &pause, NULL);
        for (int each = 0; each < 2; each++) {
            take(&ways[each], path);
            give(&ways[each]);
        }
    }
}

int main(int count, char **words) {
    if (count != 8) {
        fprintf(stderr, "usage: path NAMESPACE NAMESPACE DELAY_US LOSS_PPM RATE_BYTES QUEUE_US SEED\n");
        return 2;
    }
    struct settings path = {
        .delay = strtoull(words[3], NULL, 10) * 1000,
        .loss_ppm = strtoull(words[4], NULL, 10),
        .nanoseconds_a_byte = 1e9 / strtod(words[5], NULL),
        .queue = strtoull(words[6], NULL, 10) * 1000,
    };
    uint64_t seed = strtoull(words[7], NULL, 10);
    int one = device_in(words[1]), other = device_in(words[2]);
    struct direction ways[2] = {{.in = one, .out = other, .chance = seed},
                                {.in = other, .out = one, .chance = ~seed}};
    for (int each = 0; each < 2; each++) {
        ways[each].ring = malloc(sizeof(struct datagram) * SLOTS);
        if (!ways[each].ring) fail("malloc");
    }
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    printf("ready\n");
    fflush(stdout);
    run(ways, &path);
    for (int each = 0; each < 2; each++)
        printf("%lu %lu %lu\n", ways[each].sent, ways[each].lost, ways[each].dropped);
    return 0;
}
