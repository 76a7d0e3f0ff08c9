/*
 * Witness of the exporter's log follower: reads the log at each inotify event and counts the numbered warnings that
 * write_log writes.
 *
 * It shares nothing with the exporter: no linemux, no poll of the path as the leading clock, no pause between two
 * reads, no fingerprint, its own matcher. Because it reads as soon as the kernel tells it, the lines it loses under
 * copytruncate are those that nobody can save: they were written between the last copy and the truncation.
 *
 *   follow FILE [--from-start] [--once]
 *
 * Starts at the end of FILE (at its beginning with --from-start, or if it does not exist yet), prints "ready", and at
 * SIGTERM or SIGINT what it saw (distinct: different N, of those below 2^30). --once reads what is there and ends: the
 * peer of a catch-up.
 *
 * Renamed and deleted files are drained and kept open, up to KEPT of them, for KEPT_SECONDS after their last byte. A
 * file shorter than what was read of it was truncated and is read again from 0.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HEAD " master: Warning: service(imap-login): process_limit ("
#define TAIL ") reached, client connections are being dropped"
enum { BLOCK = 256 * 1024, CARRY = 64 * 1024, KEPT = 16, KEPT_SECONDS = 30 };

struct file {
    int fd;
    dev_t dev;
    ino_t ino;
    off_t offset;
    size_t carried; /* bytes of an unfinished line */
    time_t last;    /* when it gave its last byte */
    char carry[CARRY];
};

static struct file *files[KEPT]; /* the newest first; it is the one at the path */
static int open_files;
static const char *path;
static char block[CARRY + BLOCK];
static unsigned char *seen; /* bit N: warning N was seen */
static size_t seen_bytes;
static unsigned long matched, distinct, rotations, truncations, reads, bytes;

static void note(unsigned long n)
{
    matched++;
    if (n / 8 >= (1 << 27))
        return;
    if (n / 8 >= seen_bytes) {
        size_t want = n / 8 * 2 + 4096;
        if (!(seen = realloc(seen, want)))
            err(1, "realloc");
        memset(seen + seen_bytes, 0, want - seen_bytes);
        seen_bytes = want;
    }
    if (!(seen[n / 8] & 1 << n % 8))
        distinct++;
    seen[n / 8] |= 1 << n % 8;
}

/* Counts in whole lines: HEAD, digits, TAIL, newline. */
static void match(const char *at, const char *end)
{
    while ((at = memmem(at, end - at, HEAD, strlen(HEAD)))) {
        unsigned long n = 0;
        const char *p = at += strlen(HEAD);
        for (; p < end && *p >= '0' && *p <= '9' && p - at < 18; p++)
            n = n * 10 + (*p - '0');
        size_t tail = strlen(TAIL);
        if (p > at && (size_t)(end - p) > tail && memcmp(p, TAIL, tail) == 0 && p[tail] == '\n')
            note(n);
    }
}

static void drain(struct file *f)
{
    for (ssize_t n = BLOCK; n == BLOCK;) {
        memcpy(block, f->carry, f->carried);
        n = read(f->fd, block + f->carried, BLOCK);
        reads++;
        if (n <= 0)
            break;
        f->last = time(NULL);
        f->offset += n;
        bytes += n;
        char *end = block + f->carried + n, *newline = memrchr(block, '\n', end - block);
        char *rest = newline ? newline + 1 : block;
        match(block, rest);
        f->carried = end - rest;
        if (f->carried > CARRY)
            f->carried = 0; /* a line too long to be a warning */
        memcpy(f->carry, rest, f->carried);
    }
    struct stat st;
    if (fstat(f->fd, &st) == 0 && st.st_size < f->offset) {
        truncations++;
        lseek(f->fd, 0, SEEK_SET);
        f->offset = 0;
        f->carried = 0;
        drain(f);
    }
}

static void drop_oldest(void)
{
    struct file *f = files[--open_files];
    drain(f);
    close(f->fd);
    free(f);
}

/* Looks whether another file is at the path; opens it. */
static int take_new(int from_start)
{
    struct stat st;
    if (stat(path, &st) < 0 || (open_files && st.st_dev == files[0]->dev && st.st_ino == files[0]->ino))
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    struct file *f = calloc(1, sizeof *f);
    if (!f)
        err(1, "calloc");
    f->fd = fd, f->dev = st.st_dev, f->ino = st.st_ino;
    if (!from_start)
        f->offset = lseek(fd, 0, SEEK_END);
    if (open_files)
        rotations++;
    if (open_files == KEPT)
        drop_oldest();
    memmove(files + 1, files, open_files * sizeof *files);
    files[0] = f;
    open_files++;
    f->last = time(NULL);
    return 1;
}

static void pass(void)
{
    do
        for (int i = open_files - 1; i >= 0; i--)
            drain(files[i]);
    while (take_new(1));
    if (open_files > 1 && time(NULL) - files[open_files - 1]->last > KEPT_SECONDS)
        drop_oldest();
}

int main(int argc, char **argv)
{
    int from_start = 0, once = 0;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--from-start") == 0)
            from_start = 1;
        else if (strcmp(argv[i], "--once") == 0)
            once = from_start = 1;
        else
            path = argv[i];
    if (!path)
        errx(2, "usage: follow FILE [--from-start] [--once]");

    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    int signals = signalfd(-1, &stop, SFD_CLOEXEC);
    int notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    char *copy = strdup(path);
    uint32_t mask = IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF;
    if (signals < 0 || notify < 0 || !copy || inotify_add_watch(notify, dirname(copy), mask) < 0)
        err(1, "inotify on the directory of %s", path);
    take_new(from_start);
    if (!once) {
        puts("ready");
        fflush(stdout);
    }
    /* Events are not looked at: whatever happened, all open files are read. Once a second without any, for a file
     * that was moved to another directory. */
    struct pollfd fds[] = {{notify, POLLIN, 0}, {signals, POLLIN, 0}};
    while (!once && !fds[1].revents) {
        static char events[64 * 1024];
        pass();
        if (poll(fds, 2, 1000) > 0 && fds[0].revents && read(notify, events, sizeof events) < 0 && errno != EAGAIN)
            err(1, "inotify");
    }
    pass();
    printf("matched %lu\ndistinct %lu\nrotations %lu\ntruncations %lu\nreads %lu\nbytes %lu\n", matched, distinct,
           rotations, truncations, reads, bytes);
    return 0;
}
