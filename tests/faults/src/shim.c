/* Makes the disk of one process fail while a control file exists. Preloaded into a node, it stands between
 * the node and libc's calls that change or sync files, and lets everything through as long as there is no
 * control file.
 *
 * The file that FAULTS_DISK_CONTROL names holds one word:
 *   write   changes of files fail with EIO
 *   sync    syncs of files fail with EIO
 *   full    changes of files fail with ENOSPC
 *   slow    syncs take a fifth of a second longer
 *
 * Only regular files are touched, and none of the first three descriptors: the log of the node has to say
 * why it stopped. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
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
