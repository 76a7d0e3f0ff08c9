/*
 * A process tree that has in /proc the shape of a Dovecot server, for benchmarks of the walk and for counts under churn.
 *
 * It is a witness because it knows by construction how many processes of each service live, and it is independent of
 * Dovecot (which cannot be made to hold 20,000 idle logins on a small machine) and of every program that counts.
 *
 *   herd DOVECOT OTHERS [REPLACEMENTS_PER_SECOND]
 *
 * To be run in a PID namespace of its own: unshare --pid --fork --mount-proc herd 1000 1000
 *
 *   herd                                  this process; controls and reaps
 *   |- dovecot  (/usr/sbin/dovecot -F)    the "master"
 *   |  |- imap-login (dovecot/imap-login) DOVECOT of them, some replaced all the time if asked
 *   |  `- anvil, log, config, stats, auth one each, never replaced
 *   `- sleeper  (/usr/bin/sleeper --idle) OTHERS of them
 *
 * As with Dovecot, a new child is for a moment a fork with the comm and cmdline of the master and then execs, which sets
 * comm and its one argv at once: the executables are symbolic links to this program, made in herd-as/ beside it.
 *
 * Prints "master PID" and "ready" when all have exec'ed. Ends at SIGTERM, SIGINT or, if stdin is a pipe, a socket or a
 * terminal, at its end; then kills and reaps all and prints "replaced N live_mean X": X is the true mean number of
 * imap-login processes over its life, each one missing from its kill until its successor has exec'ed.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

static const char *const steady[] = {"anvil", "log", "config", "stats", "auth"};
static const char *links; /* the directory of the symbolic links */

/* Forks a child that execs LINK and dies with its parent. WRITE_END (or -1) becomes its stdout. */
static pid_t spawn(const char *link, char *const argv[], char *const envp[], int write_end)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        err(1, "fork");
    if (pid > 0)
        return pid;
    char path[4096];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof path, "%s/%s", links, link);
    if (getppid() == parent && (write_end < 0 || dup2(write_end, 1) == 1))
        execve(path, argv, envp);
    _exit(127);
}

static pid_t spawn_waiting(const char *link, char *const argv[])
{
    char *envp[] = {"HERD_ROLE=wait", NULL};
    return spawn(link, argv, envp, -1);
}

static pid_t spawn_service(const char *name)
{
    char title[32];
    snprintf(title, sizeof title, "dovecot/%s", name);
    char *argv[] = {title, NULL};
    return spawn_waiting(name, argv);
}

/* The write end of GATE is in every child until it execs: its end means that all have. */
static void wait_for_execs(int gate[2])
{
    char byte;
    close(gate[1]);
    while (read(gate[0], &byte, 1) < 0 && errno == EINTR)
        ;
    close(gate[0]);
}

static void open_gate(int gate[2])
{
    if (pipe2(gate, O_CLOEXEC) < 0)
        err(1, "pipe2");
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int master(long children, double rate)
{
    int gate[2];
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    pid_t *pids = calloc(children + 1, sizeof *pids);
    if (!pids || fcntl(1, F_SETFD, FD_CLOEXEC) < 0)
        err(1, "master");
    open_gate(gate);
    for (size_t i = 0; i < COUNT(steady); i++)
        spawn_service(steady[i]);
    for (long i = 0; i < children; i++)
        pids[i] = spawn_service("imap-login");
    wait_for_execs(gate);
    if (waitpid(-1, NULL, WNOHANG) != 0)
        errx(1, "a child could not be started");
    dprintf(1, "ready\n");

    unsigned long long random = 88172645463325252ULL;
    unsigned long replaced = 0;
    double start = now(), absent = 0; /* seconds that killed children were not yet replaced, summed */
    if (rate <= 0 || children == 0)
        while (sigwaitinfo(&stop, NULL) < 0)
            ;
    else
        for (;; replaced++) {
            double wait = start + (replaced + 1) / rate - now();
            struct timespec t = {0, 0};
            if (wait > 0) {
                t.tv_sec = (time_t)wait;
                t.tv_nsec = (long)((wait - (double)t.tv_sec) * 1e9);
            }
            if (sigtimedwait(&stop, NULL, &t) == SIGTERM)
                break;
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            pid_t *victim = &pids[random % children];
            double killed = now();
            kill(*victim, SIGKILL);
            waitpid(*victim, NULL, 0);
            open_gate(gate);
            *victim = spawn_service("imap-login");
            wait_for_execs(gate);
            absent += now() - killed;
        }
    dprintf(1, "replaced %lu live_mean %.3f\n", replaced, (double)children - absent / (now() - start));
    return 0; /* the children die with us */
}

/* Makes the links; returns their directory. */
static const char *make_links(void)
{
    static char dir[4096];
    char self[4000], path[4096 + 32];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0)
        err(1, "/proc/self/exe");
    self[n] = 0;
    snprintf(dir, sizeof dir, "%.*s/herd-as", (int)(strrchr(self, '/') - self), self);
    if (mkdir(dir, 0755) < 0 && errno != EEXIST)
        err(1, "%s", dir);
    const char *more[] = {"dovecot", "imap-login", "sleeper"};
    for (size_t i = 0; i < COUNT(steady) + COUNT(more); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, i < COUNT(more) ? more[i] : steady[i - COUNT(more)]);
        if (symlink(self, path) < 0 && errno != EEXIST)
            err(1, "%s", path);
    }
    return dir;
}

/* True until the word to stop, or until MASTER has died. */
static int wait_for_the_end(int signals, pid_t master_pid)
{
    struct stat in;
    int has_end = fstat(0, &in) == 0 && (S_ISFIFO(in.st_mode) || S_ISSOCK(in.st_mode) || isatty(0));
    struct pollfd fds[] = {{signals, POLLIN, 0}, {has_end ? 0 : -1, POLLIN, 0}};
    for (;;) {
        if (poll(fds, 2, -1) < 0)
            continue;
        struct signalfd_siginfo got;
        if (fds[0].revents && read(signals, &got, sizeof got) == sizeof got && got.ssi_signo != SIGCHLD)
            return 0;
        for (pid_t dead; (dead = waitpid(-1, NULL, WNOHANG)) > 0;)
            if (dead == master_pid)
                return 1;
        char buf[256];
        if (fds[1].revents && read(0, buf, sizeof buf) <= 0)
            return 0;
    }
}

int main(int argc, char **argv)
{
    const char *role = getenv("HERD_ROLE");
    if (role && strcmp(role, "wait") == 0)
        for (;;)
            pause();
    if (role && (links = getenv("HERD_LINKS")))
        return master(atol(getenv("HERD_CHILDREN")), atof(getenv("HERD_RATE")));
    if (argc < 3 || argc > 4)
        errx(2, "usage: herd DOVECOT OTHERS [REPLACEMENTS_PER_SECOND]");

    sigset_t handled;
    sigemptyset(&handled);
    sigaddset(&handled, SIGTERM);
    sigaddset(&handled, SIGINT);
    sigaddset(&handled, SIGHUP);
    sigaddset(&handled, SIGCHLD);
    sigprocmask(SIG_BLOCK, &handled, NULL);
    int signals = signalfd(-1, &handled, SFD_CLOEXEC);
    if (signals < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        err(1, "signals");
    links = make_links();

    long others = atol(argv[2]);
    pid_t *pids = calloc(others + 1, sizeof *pids);
    if (!pids)
        err(1, "calloc");
    int words[2], gate[2];
    open_gate(words);
    open_gate(gate);
    char env_links[4200], env_children[64], env_rate[64];
    snprintf(env_links, sizeof env_links, "HERD_LINKS=%s", links);
    snprintf(env_children, sizeof env_children, "HERD_CHILDREN=%ld", atol(argv[1]));
    snprintf(env_rate, sizeof env_rate, "HERD_RATE=%f", argc == 4 ? atof(argv[3]) : 0.0);
    char *envp[] = {"HERD_ROLE=master", env_links, env_children, env_rate, NULL};
    char *master_argv[] = {"/usr/sbin/dovecot", "-F", NULL}, *other_argv[] = {"/usr/bin/sleeper", "--idle", NULL};
    pid_t master_pid = spawn("dovecot", master_argv, envp, words[1]);
    close(words[1]);
    for (long i = 0; i < others; i++)
        pids[i] = spawn_waiting("sleeper", other_argv);
    wait_for_execs(gate);

    FILE *heard = fdopen(words[0], "r");
    char line[64] = "";
    int failed = !heard || !fgets(line, sizeof line, heard) || strcmp(line, "ready\n") != 0 ||
                 waitpid(-1, NULL, WNOHANG) != 0;
    if (failed) {
        warnx("not all processes could be started");
    } else {
        printf("master %d\nready\n", (int)master_pid);
        fflush(stdout);
        failed = wait_for_the_end(signals, master_pid);
        if (!failed)
            kill(master_pid, SIGTERM);
        if (fgets(line, sizeof line, heard))
            fputs(line, stdout);
    }
    for (long i = 0; i < others; i++)
        kill(pids[i], SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return failed;
}
