/*
 * Witness and peer of the exporter's walk of /proc.
 *
 * It answers the same question, "how many processes does each Dovecot service have", with nothing but libc: no code, no
 * crate and no remembered state in common with the exporter, and every scan starts from nothing. So a count on which
 * both agree is not a shared mistake, and its CPU time per scan is what the kernel alone charges for a plain walk.
 *
 *   walk cmdline [--master PID] [options]   processes whose argv[0] is dovecot.../NAME and whose parent is PID
 *   walk comm --name COMM [options]         processes (zombies and not yet exec'ed ones too) whose comm is COMM
 *
 *   --procfs DIR              instead of /proc
 *   --repeat N                N scans; the counts are those of the last
 *   --follow MS --for SECONDS one scan each MS milliseconds; mean, lowest and highest count of each NAME
 *
 * The master's `children` file misses live children while others exit, so it is used to confirm a parent, never to
 * count: a process that is not in it is asked itself (its stat).
 */
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_PID = 1 << 22, MAX_NAMES = 64, NAME_BYTES = 64, READ_BYTES = 512 };

struct tally {
    char name[NAME_BYTES + 1];
    long now, sum, min, max;
};

static struct tally tallies[MAX_NAMES];
static int names;
static long scans, processes;
static const char *procfs = "/proc", *comm;
static long master;

static int procdir;
static char (*pids)[12];
static size_t pids_cap;

static unsigned char member[MAX_PID / 8]; /* bit set: listed in the master's children file in this scan */
static char *children;
static size_t children_cap = 1 << 16;

static ssize_t slurp(const char *path, char *buf, size_t cap)
{
    int fd = openat(procdir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, buf, cap);
    close(fd);
    return n;
}

static void count(const char *name, size_t len)
{
    if (len == 0 || len > NAME_BYTES)
        return;
    int i = 0;
    while (i < names && (strncmp(tallies[i].name, name, len) != 0 || tallies[i].name[len] != 0))
        i++;
    if (i == names) {
        if (names == MAX_NAMES)
            return;
        memcpy(tallies[names++].name, name, len);
    }
    tallies[i].now++;
}

/* Sets (or clears again) the bits of the pids that the last read of the children file gave. */
static void mark_children(int set)
{
    for (char *p = children; *p;) {
        unsigned long pid = strtoul(p, &p, 10);
        if (pid < MAX_PID)
            member[pid / 8] = set ? member[pid / 8] | 1 << pid % 8 : 0;
        while (*p == ' ' || *p == '\n')
            p++;
    }
}

static void read_children(void)
{
    char path[64];
    size_t used = 0;
    snprintf(path, sizeof path, "%ld/task/%ld/children", master, master);
    int fd = openat(procdir, path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0) {
        if (used + 4096 > children_cap && !(children = realloc(children, children_cap *= 2)))
            err(1, "realloc");
        ssize_t n = read(fd, children + used, children_cap - used - 1);
        if (n <= 0)
            break;
        used += n;
    }
    if (fd >= 0)
        close(fd);
    children[used] = 0;
    mark_children(1);
}

static int has_parent(const char *pid, long parent)
{
    char path[24], buf[READ_BYTES];
    stpcpy(stpcpy(path, pid), "/stat");
    ssize_t n = slurp(path, buf, sizeof buf - 1);
    if (n <= 0)
        return 0;
    buf[n] = 0;
    char *after = strrchr(buf, ')'); /* the comm before it may hold anything */
    return after && strlen(after) > 4 && strtol(after + 4, NULL, 10) == parent;
}

static void look_cmdline(const char *pid)
{
    char path[24], buf[READ_BYTES + 1];
    stpcpy(stpcpy(path, pid), "/cmdline");
    ssize_t n = slurp(path, buf, READ_BYTES);
    if (n < 7 || memcmp(buf, "dovecot", 7) != 0)
        return;
    buf[n] = 0;
    size_t prefix = strcspn(buf, "/ ");
    if (buf[prefix] != '/')
        return;
    if (master) {
        unsigned long number = strtoul(pid, NULL, 10);
        if (number >= MAX_PID || (!(member[number / 8] & 1 << number % 8) && !has_parent(pid, master)))
            return;
    }
    count(buf + prefix + 1, strcspn(buf + prefix + 1, " "));
}

static void look_comm(const char *pid)
{
    char path[24], buf[32];
    stpcpy(stpcpy(path, pid), "/comm");
    ssize_t n = slurp(path, buf, sizeof buf);
    if (n > 0 && (size_t)n == strlen(comm) + 1 && memcmp(buf, comm, n - 1) == 0)
        count(comm, n - 1);
}

static void scan(void)
{
    for (int i = 0; i < names; i++)
        tallies[i].now = 0;
    if (master)
        read_children();
    DIR *dir = opendir(procfs);
    if (!dir)
        err(1, "%s", procfs);
    size_t n = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' || strlen(entry->d_name) >= sizeof *pids)
            continue;
        if (n == pids_cap && !(pids = realloc(pids, (pids_cap = pids_cap * 2 + 4096) * sizeof *pids)))
            err(1, "realloc");
        strcpy(pids[n++], entry->d_name);
    }
    closedir(dir);
    for (size_t i = 0; i < n; i++)
        comm ? look_comm(pids[i]) : look_cmdline(pids[i]);
    if (master)
        mark_children(0);
    processes = n;
    scans++;
    for (int i = 0; i < names; i++) {
        struct tally *t = &tallies[i];
        if (t->sum == 0) /* first seen now: it was 0 in the scans before */
            t->min = scans == 1 ? t->now : 0;
        t->sum += t->now;
        t->min = t->now < t->min ? t->now : t->min;
        t->max = t->now > t->max ? t->now : t->max;
    }
}

static double cpu_seconds(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_utime.tv_sec + use.ru_stime.tv_sec + (use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void sleep_until(struct timespec *due, long ms)
{
    due->tv_nsec += ms % 1000 * 1000000;
    due->tv_sec += ms / 1000 + due->tv_nsec / 1000000000;
    due->tv_nsec %= 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, due, NULL) != 0)
        ;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"procfs", 1, 0, 'p'}, {"master", 1, 0, 'm'}, {"name", 1, 0, 'n'}, {"repeat", 1, 0, 'r'},
        {"follow", 1, 0, 'f'}, {"for", 1, 0, 's'},    {0, 0, 0, 0},
    };
    long repeat = 1, follow_ms = 0;
    double seconds = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (c) {
        case 'p': procfs = optarg; break;
        case 'm': master = atol(optarg); break;
        case 'n': comm = optarg; break;
        case 'r': repeat = atol(optarg); break;
        case 'f': follow_ms = atol(optarg); break;
        case 's': seconds = atof(optarg); break;
        default: return 2;
        }
    int by_comm = optind + 1 == argc && strcmp(argv[optind], "comm") == 0;
    if (!by_comm && !(optind + 1 == argc && strcmp(argv[optind], "cmdline") == 0))
        errx(2, "usage: walk cmdline [--master PID] | comm --name COMM  [--procfs DIR] [--repeat N] "
                "[--follow MS --for SECONDS]");
    if (by_comm != (comm != NULL) || (by_comm && master) || repeat < 1 || (follow_ms > 0) != (seconds > 0))
        errx(2, "comm needs --name and takes no --master; --follow and --for go together");
    if ((procdir = open(procfs, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
        err(1, "%s", procfs);
    if (!(children = calloc(1, children_cap)))
        err(1, "calloc");

    if (follow_ms)
        repeat = (long)(seconds * 1000 / follow_ms);
    double *costs = calloc(repeat + 1, sizeof *costs), total = cpu_seconds();
    if (!costs)
        err(1, "calloc");
    struct timespec due;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (long i = 0; i < repeat; i++) {
        double before = cpu_seconds();
        scan();
        costs[i] = cpu_seconds() - before;
        if (follow_ms)
            sleep_until(&due, follow_ms);
    }
    total = cpu_seconds() - total;
    qsort(costs, repeat, sizeof *costs, by_value);

    for (int i = 0; i < names; i++) {
        struct tally *t = &tallies[i];
        if (follow_ms)
            printf("%s mean %.3f min %ld max %ld\n", t->name, (double)t->sum / scans, t->min, t->max);
        else
            printf("%s %ld\n", t->name, t->now);
    }
    printf("processes %ld\nscans %ld\n", processes, scans);
    printf("cpu_seconds_per_scan %.6f\ncpu_seconds_median %.6f\n", total / scans, costs[repeat / 2]);
    return 0;
}
