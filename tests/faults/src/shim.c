/* Makes the disk of one process fail, and misleads its clocks. Preloaded into a node, it stands between the node
 * and libc's calls that change or sync files or tell the time, and lets everything through as long as the
 * control files say nothing else.
 *
 * The file that FAULTS_DISK_CONTROL names is there while the disk fails, and holds one word:
 *   write   changes of files fail with EIO
 *   sync    syncs of files fail with EIO
 *   full    changes of files fail with ENOSPC
 *   slow    syncs take a fifth of a second longer
 *
 * Only regular files are touched, and none of the first three descriptors: the log of the node has to say
 * why it stopped.
 *
 * The file that FAULTS_CLOCK_CONTROL names holds three numbers: by how many milliseconds the wall clock is off,
 * by how many the monotonic one, and how many thousandths both gain from the process's beginning on. Only the two
 * clocks that Rust's standard library reads are touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum fault { NONE, WRITE, SYNC, FULL, SLOW };

static enum fault fault_of(int fd) {
    const char *control = getenv("FAULTS_DISK_CONTROL");
    struct stat file;
    char word[8] = {0};
    if (control == NULL || fd < 3) return NONE;
    int opened = open(control, O_RDONLY | O_CLOEXEC);
    if (opened < 0) return NONE;
    ssize_t length = read(opened, word, sizeof word - 1);
    close(opened);
    if (length <= 0 || fstat(fd, &file) != 0 || !S_ISREG(file.st_mode)) return NONE;
    if (strncmp(word, "write", 5) == 0) return WRITE;
    if (strncmp(word, "sync", 4) == 0) return SYNC;
    if (strncmp(word, "full", 4) == 0) return FULL;
    if (strncmp(word, "slow", 4) == 0) return SLOW;
    return NONE;
}

/* The error with which a change of the file fails now; 0 where it does not. */
static int change_error(int fd) {
    enum fault fault = fault_of(fd);
    return fault == WRITE ? EIO : fault == FULL ? ENOSPC : 0;
}

/* The same for a sync, which may also be kept waiting. */
static int sync_error(int fd) {
    struct timespec pause = {.tv_sec = 0, .tv_nsec = 200000000};
    enum fault fault = fault_of(fd);
    if (fault == SLOW) nanosleep(&pause, NULL);
    return fault == SYNC ? EIO : 0;
}

/* Each goes on to libc's own function of the same name, looked up each time: little beside a write. */
#define CHANGE(name, result, parameters, types, arguments) \
    result name parameters { \
        int error = change_error(fd); \
        if (error == 0) return ((result(*) types)dlsym(RTLD_NEXT, #name))arguments; \
        errno = error; \
        return -1; \
    }

#define SYNCING(name, parameters, types, arguments) \
    int name parameters { \
        int error = sync_error(fd); \
        if (error == 0) return ((int(*) types)dlsym(RTLD_NEXT, #name))arguments; \
        errno = error; \
        return -1; \
    }

CHANGE(write, ssize_t, (int fd, const void *from, size_t count),
       (int, const void *, size_t), (fd, from, count))
CHANGE(writev, ssize_t, (int fd, const struct iovec *from, int count), (int, const struct iovec *, int),
       (fd, from, count))
CHANGE(pwrite, ssize_t, (int fd, const void *from, size_t count, off_t at),
       (int, const void *, size_t, off_t),
       (fd, from, count, at))
CHANGE(pwrite64, ssize_t, (int fd, const void *from, size_t count, off64_t at),
       (int, const void *, size_t, off64_t),
       (fd, from, count, at))
CHANGE(pwritev, ssize_t, (int fd, const struct iovec *from, int count, off_t at),
       (int, const struct iovec *, int, off_t), (fd, from, count, at))
CHANGE(pwritev64, ssize_t, (int fd, const struct iovec *from, int count, off64_t at),
       (int, const struct iovec *, int, off64_t), (fd, from, count, at))
SYNCING(fsync, (int fd), (int), (fd))
SYNCING(fdatasync, (int fd), (int), (fd))
SYNCING(sync_file_range, (int fd, off64_t from, off64_t count, unsigned int flags),
        (int, off64_t, off64_t, unsigned int), (fd, from, count, flags))

/* How often the control file of the clocks is read, in nanoseconds. */
#define LOOK_NS 100000000LL

static int (*true_clock)(clockid_t, struct timespec *);
static const char *clock_control;
static long long began_ns;
static atomic_llong wall_ms, monotonic_ms, thousandths, next_look_ns;

static long long nanoseconds(const struct timespec *time) {
    return time->tv_sec * 1000000000LL + time->tv_nsec;
}

/* What the control file says. Whoever comes while another reads goes on with what was said before. */
static void look(long long now_ns) {
    long long due = atomic_load(&next_look_ns);
    char text[96] = {0}, *rest = text;
    if (now_ns < due || !atomic_compare_exchange_strong(&next_look_ns, &due, now_ns + LOOK_NS)) return;
    int before = errno;
    int opened = open(clock_control, O_RDONLY | O_CLOEXEC);
    if (opened >= 0 && read(opened, text, sizeof text - 1) > 0) {
        long long wall = strtoll(rest, &rest, 10), monotonic = strtoll(rest, &rest, 10);
        atomic_store(&thousandths, strtoll(rest, &rest, 10));
        atomic_store(&wall_ms, wall);
        atomic_store(&monotonic_ms, monotonic);
    }
    if (opened >= 0) close(opened);
    errno = before;
}

__attribute__((constructor)) static void begin(void) {
    struct timespec now;
    *(void **)&true_clock = dlsym(RTLD_NEXT, "clock_gettime");
    clock_control = getenv("FAULTS_CLOCK_CONTROL");
    if (true_clock == NULL || true_clock(CLOCK_MONOTONIC, &now) != 0) clock_control = NULL;
    if (clock_control != NULL) began_ns = nanoseconds(&now);
}

int clock_gettime(clockid_t id, struct timespec *time) {
    struct timespec now;
    if (true_clock == NULL) return (int)syscall(SYS_clock_gettime, id, time);
    if (clock_control == NULL || (id != CLOCK_REALTIME && id != CLOCK_MONOTONIC)) return true_clock(id, time);
    /* The drift is told by the monotonic clock's own reading where that is asked for: it never goes back. */
    if (true_clock(CLOCK_MONOTONIC, &now) != 0 || true_clock(id, time) != 0) return -1;
    if (id == CLOCK_MONOTONIC) now = *time;
    look(nanoseconds(&now));
    long long gained = (nanoseconds(&now) - began_ns) / 1000 * atomic_load(&thousandths);
    long long off_ms = atomic_load(id == CLOCK_REALTIME ? &wall_ms : &monotonic_ms);
    long long told = nanoseconds(time) + off_ms * 1000000 + gained;
    time->tv_sec = told / 1000000000;
    time->tv_nsec = told % 1000000000;
    return 0;
}
