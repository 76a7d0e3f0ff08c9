/*
 * Writer of numbered warnings, byte for byte as the Dovecot master writes them into its log file, alone or among logins.
 *
 * It is a witness because it knows how many it wrote: one write(2) with O_APPEND for each line, as Dovecot does, and
 * every line has another number, so that a reader can tell lost from counted twice. It knows nothing of who reads.
 *
 *   write_log FILE RATE SECONDS [START [EVERY]]
 *
 * RATE lines per second (0: as fast as possible) for SECONDS (0: until SIGTERM), numbered from START (1); every line is a
 * warning, or only each EVERY-th. SIGUSR1 makes it open FILE anew and close the old one, as `doveadm log reopen` makes
 * Dovecot. Prints the number of warnings at the end.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t stopped, reopen;

static void on_signal(int number)
{
    if (number == SIGUSR1)
        reopen = 1;
    else
        stopped = 1;
}

static int open_log(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        err(1, "%s", path);
    return fd;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void sleep_for(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL); /* a signal may end it early: the loop looks again */
}

int main(int argc, char **argv)
{
    if (argc < 4 || argc > 6)
        errx(2, "usage: write_log FILE RATE SECONDS [START [EVERY]]");
    const char *path = argv[1];
    double rate = atof(argv[2]), seconds = atof(argv[3]);
    unsigned long first = argc > 4 ? strtoul(argv[4], NULL, 10) : 1, every = argc > 5 ? strtoul(argv[5], NULL, 10) : 1;
    unsigned long written = 0;
    if (every == 0)
        errx(2, "EVERY is at least 1");

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    int fd = open_log(path);
    char line[256], stamp[32] = "";
    time_t stamped = 0;
    double start = now();
    while (!stopped) {
        double elapsed = now() - start;
        if (seconds > 0 && elapsed >= seconds)
            break;
        if (reopen) {
            reopen = 0;
            int fresh = open_log(path);
            close(fd);
            fd = fresh;
        }
        if (rate > 0 && (double)written / rate > elapsed) {
            sleep_for((double)written / rate - elapsed);
            continue;
        }
        time_t clock = time(NULL);
        if (clock != stamped)
            strftime(stamp, sizeof stamp, "%b %d %H:%M:%S", localtime(&clock));
        stamped = clock;
        const char *format = (written + 1) % every == 0
            ? "%s master: Warning: service(imap-login): process_limit (%lu) reached, client connections are being dropped\n"
            : "%s imap-login: Info: Login: user=<user%lu>, method=PLAIN, rip=192.0.2.7, lip=198.51.100.7, mpid=21617, TLS, "
              "session=<YkvWm/NgIs9/AAAB>\n";
        int n = snprintf(line, sizeof line, format, stamp, first + written);
        ssize_t done = write(fd, line, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done != n)
            err(1, "%s: %zd of %d bytes written after %lu lines", path, done, n, written);
        written++;
    }
    printf("%lu\n", written / every);
    return 0;
}
