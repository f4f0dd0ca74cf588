/* What the operating system would draw at random, drawn from a seed instead: a whole process that is
 * simulated has no chance in it. Rust's hash maps, and through them tokio's choice among those who wait,
 * ask for nothing else. The seed stands in the environment, for the first number is drawn before main is
 * told anything. Each thread draws numbers of its own, so what runs in one is not changed by what another asks for. */

#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

static _Thread_local uint64_t state;

static uint64_t next(void) {
    if (state == 0) {
        const char *seed = getenv("SIMULATION_ENTROPY");
        state = seed == NULL ? 1 : strtoull(seed, NULL, 10) * 2 + 1;
    }
    /* SplitMix64. */
    uint64_t mixed = state += UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags) {
    (void)flags;
    unsigned char *bytes = buffer;
    for (size_t at = 0; at < length; at++) {
        bytes[at] = (unsigned char)next();
    }
    return (ssize_t)length;
}
