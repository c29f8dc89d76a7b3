/* ring.h - several processes compute together, over sockets: a gather function (llama.h). The processes are a ring. In each
 * of ranks - 1 steps a process gives its neighbour the piece that it got last, its own first. On several machines the
 * sockets would be TCP's. */
#ifndef RING_H
#define RING_H
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    int next, previous; /* sockets to the neighbours */
} ring;

/* Sends n bytes, or receives them. Returns 0; or -1 if the neighbour is gone. */
static inline int ring_send(int fd, const char *p, size_t n) {
    for (ssize_t k; n; p += k, n -= (size_t)k)
        if ((k = send(fd, p, n, MSG_NOSIGNAL)) < 0 && (k = 0, errno != EINTR)) return -1;
    return 0;
}
static inline int ring_receive(int fd, char *p, size_t n) {
    for (ssize_t k; n; p += k, n -= (size_t)k) {
        k = recv(fd, p, n, 0);
        if (k == 0 || (k < 0 && (k = 0, errno != EINTR))) return -1;
    }
    return 0;
}

/* A llama_gather_fn; user is a ring. Every second process receives first: if all sent at once, they could wait for each
 * other. */
static inline int ring_gather(void *user, float *x, const size_t *offsets, int rank, int ranks) {
    ring *r = user;
    for (int step = 0; step < ranks - 1; step++) {
        int out = (rank - step + ranks) % ranks, in = (rank - step - 1 + ranks) % ranks, failed = 0;
        for (int turn = 0; turn < 2 && !failed; turn++) {
            int piece = turn == rank % 2 ? out : in;
            char *p = (char *)(x + offsets[piece]);
            size_t n = (offsets[piece + 1] - offsets[piece]) * sizeof *x;
            failed = turn == rank % 2 ? ring_send(r->next, p, n) : ring_receive(r->previous, p, n);
        }
        if (failed) return failed;
    }
    return 0;
}

/* Starts ranks - 1 more processes by fork and joins all to a ring. Sets *r and *children in each. Returns its rank; -1 on
 * failure. A process holds no sockets but its own two, so the end of one is noticed by its neighbours, and so by all. */
static inline int ring_start(ring *r, int ranks, pid_t *children) {
    int pairs[64][2], rank = 0;
    if (ranks < 1 || ranks > 64) return -1;
    for (int i = 0; i < ranks; i++) /* between rank i and the next */
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pairs[i]) != 0) return -1;
    for (int i = 1; i < ranks && rank == 0; i++) {
        children[i] = fork();
        if (children[i] < 0) return -1;
        if (children[i] == 0) rank = i;
    }
    int before = (rank + ranks - 1) % ranks;
    *r = (ring){pairs[rank][0], pairs[before][1]};
    for (int i = 0; i < ranks; i++) {
        if (i != rank) close(pairs[i][0]);
        if (i != before) close(pairs[i][1]);
    }
    return rank;
}
#endif
