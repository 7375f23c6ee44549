/* A load generator that is never the limit: many Socket.IO clients over websockets, in one thread on epoll.
 *
 *   generator HOST PORT SOCKETS REPLY [IN_FLIGHT [FIRST [MISSED]]]
 *
 * connects SOCKETS clients, each under its own key (from user FIRST on, 0 if not given), at most IN_FLIGHT handshakes at
 * once, prints one JSON line with how long that took, and answers every event until its standard input is closed. Then
 * it prints its figures as one more JSON line. REPLY: "ack" (declared and given), "quiet" (neither), "polite" (given, not declared).
 *
 * With MISSED they are a herd: each client has an address of its own (127.1.0.1 and up), one that is refused or closed
 * comes again a second later, and one more line says when each has its snapshot and MISSED events.
 *
 * Frames from a server are not masked; frames from a client are, with the mask zero, which changes no byte.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 16384, EVENTS = 512 };
enum stage { CONNECTING, UPGRADING, OPENING, JOINING, READY, CLOSED };

struct client {
    int fd;
    int number;
    enum stage stage;
    size_t held;                /* bytes of an unfinished head or frame in `in` */
    size_t room;                /* size of `in` */
    char *in;                   /* only while something is unfinished: an idle client costs no buffer */
    int missed;                 /* events it got */
    int snapshot;               /* whether it got one */
    double again;               /* when it comes again, 0 if it does not */
};

static const char *reply;
static struct sockaddr_in server;
static char host[64];
static int poller, sockets, in_flight, first, started, ready, closed;
static int missed = -1, complete, told, untold;
static unsigned long long events, bytes;
static struct client *clients;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static double cpu(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what) {
    fprintf(stderr, "generator: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void write_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        ssize_t done = send(fd, data, size, MSG_NOSIGNAL);
        if (done > 0) {
            data += done;
            size -= (size_t)done;
        } else if (errno == EAGAIN) {
            struct pollfd wait = {.fd = fd, .events = POLLOUT};
            poll(&wait, 1, 1000);
        } else if (errno != EINTR) {
            return; /* the end of the connection is read later */
        }
    }
}

static size_t frame(char *out, const char *payload, size_t size) {
    size_t at = 0;
    out[at++] = (char)0x81;
    if (size < 126) {
        out[at++] = (char)(0x80 | size);
    } else {
        out[at++] = (char)(0x80 | 126);
        out[at++] = (char)(size >> 8);
        out[at++] = (char)(size & 0xff);
    }
    memset(out + at, 0, 4);
    at += 4;
    memcpy(out + at, payload, size);
    return at + size;
}

static void open_client(struct client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) fail("socket");
    int on = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (missed >= 0) {
        struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001u + (unsigned)c->number)};
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(c->fd, (struct sockaddr *)&own, sizeof own) < 0) fail("bind");
    }
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) fail("connect");
    c->stage = CONNECTING;
    struct epoll_event want = {.events = EPOLLOUT | EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &want) < 0) fail("epoll_ctl");
}

static void connect_next(void) {
    while (started < sockets && started - ready - closed < in_flight) {
        struct client *c = &clients[started];
        c->number = started++;
        open_client(c);
    }
}

static int is_complete(const struct client *c) { return missed >= 0 && c->snapshot && c->missed >= missed; }

static void end(struct client *c) {
    if (c->stage == CLOSED) return;
    if (c->stage == READY) ready--;
    complete -= is_complete(c);
    c->snapshot = c->missed = 0;
    c->stage = CLOSED;
    closed++;
    close(c->fd);
    free(c->in);
    c->in = NULL;
    c->held = c->room = 0;
    if (missed >= 0) c->again = now() + 1;
}

/* A refusal: with an answer that says so (`by_answer`), or by a connection that just ended. */
static void refused(struct client *c, int by_answer) {
    if (by_answer) told++;
    else untold++;
    end(c);
}

static void come_again(void) {
    double at = now();
    for (int i = 0; i < sockets; i++) {
        struct client *c = &clients[i];
        if (c->stage == CLOSED && c->again > 0 && c->again <= at) {
            c->again = 0;
            closed--;
            open_client(c);
        }
    }
}

/* One Engine.IO packet. Appends what is to be answered to `out`, and returns how much that is. */
static size_t packet(struct client *c, const char *data, size_t size, char *out) {
    char text[160];
    int length = 0;
    if (size >= 2 && data[0] == '4' && data[1] == '2') {
        size_t digits = 0;
        while (2 + digits < size && digits < 20 && data[2 + digits] >= '0' && data[2 + digits] <= '9') digits++;
        int before = is_complete(c);
        if (digits == 0) c->snapshot = 1; /* an event that asks for no acknowledgement: the snapshot */
        else c->missed++;
        complete += is_complete(c) - before;
        if (digits == 0) return 0;
        events++;
        if (strcmp(reply, "quiet") == 0) return 0;
        length = snprintf(text, sizeof text, "43%.*s[]", (int)digits, data + 2);
    } else if (size >= 1 && data[0] == '2') {
        length = snprintf(text, sizeof text, "3");
    } else if (size >= 1 && data[0] == '0' && c->stage == OPENING) {
        length = snprintf(text, sizeof text, "40{\"userId\":\"user-%d\",\"botId\":\"bot\",\"acks\":%s}", first + c->number,
                          strcmp(reply, "ack") == 0 ? "true" : "false");
        c->stage = JOINING;
    } else if (size >= 2 && data[0] == '4' && data[1] == '0' && c->stage == JOINING) {
        c->stage = READY;
        ready++;
        connect_next();
    } else if (size >= 2 && data[0] == '4' && data[1] == '4') {
        if (missed >= 0) {
            refused(c, 1);
            return 0;
        }
        fprintf(stderr, "generator: refused: %.*s\n", (int)size, data);
        exit(1);
    }
    return length > 0 ? frame(out, text, (size_t)length) : 0;
}

static void readable(struct client *c) {
    static char chunk[BUFFER * 4];
    static char out[BUFFER * 4];
    size_t held = c->held;
    if (held > 0) memcpy(chunk, c->in, held);
    ssize_t got = recv(c->fd, chunk + held, sizeof chunk - held, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        refused(c, 0);
        return;
    }
    if (got < 0) return;
    bytes += (unsigned long long)got;
    size_t size = held + (size_t)got, at = 0, answer = 0;
    if (c->stage == UPGRADING) {
        char *over = memmem(chunk, size, "\r\n\r\n", 4);
        if (over != NULL) {
            if (missed >= 0 && size >= 12 && memcmp(chunk + 8, " 101", 4) != 0) {
                refused(c, 1);
                return;
            }
            if (size < 12 || memcmp(chunk + 8, " 101", 4) != 0) {
                fprintf(stderr, "generator: %.*s\n", (int)size, chunk);
                exit(1);
            }
            at = (size_t)(over - chunk) + 4;
            c->stage = OPENING;
        }
    }
    while (c->stage != UPGRADING && c->stage != CLOSED && size - at >= 2) {
        size_t length = (unsigned char)chunk[at + 1] & 0x7f, head = 2;
        if (length == 126) {
            if (size - at < 4) break;
            length = (size_t)(unsigned char)chunk[at + 2] << 8 | (unsigned char)chunk[at + 3];
            head = 4;
        } else if (length == 127) {
            fprintf(stderr, "generator: a frame of more than 64 KiB\n");
            exit(1);
        }
        if (size - at < head + length) break;
        if (((unsigned char)chunk[at] & 0x0f) == 8) { /* a close frame says why */
            refused(c, 1);
            return;
        }
        answer += packet(c, chunk + at + head, length, out + answer);
        if (answer > sizeof out - 512) {
            write_all(c->fd, out, answer);
            answer = 0;
        }
        at += head + length;
    }
    if (c->stage == CLOSED) return;
    if (answer > 0) write_all(c->fd, out, answer);
    c->held = size - at;
    if (c->held > 0) {
        if (c->room < c->held) {
            c->room = c->held < BUFFER ? BUFFER : sizeof chunk;
            c->in = realloc(c->in, c->room);
            if (c->in == NULL) fail("realloc");
        }
        memcpy(c->in, chunk + at, c->held);
    } else if (c->in != NULL) {
        free(c->in);
        c->in = NULL;
        c->room = 0;
    }
}

static void writable(struct client *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0 && missed >= 0) {
        refused(c, 0);
        return;
    }
    if (error != 0) {
        errno = error;
        fail("connect");
    }
    char head[256];
    int length = snprintf(head, sizeof head,
                          "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n"
                          "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n",
                          host);
    write_all(c->fd, head, (size_t)length);
    c->stage = UPGRADING;
    struct epoll_event want = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &want);
}

int main(int count, char **words) {
    if (count < 5) {
        fprintf(stderr, "usage: generator HOST PORT SOCKETS ack|polite|quiet [IN_FLIGHT [FIRST [MISSED]]]\n");
        return 2;
    }
    server.sin_family = AF_INET;
    server.sin_port = htons((uint16_t)atoi(words[2]));
    if (inet_pton(AF_INET, words[1], &server.sin_addr) != 1) {
        fprintf(stderr, "generator: HOST is an IPv4 address\n");
        return 2;
    }
    snprintf(host, sizeof host, "%.40s:%.6s", words[1], words[2]);
    sockets = atoi(words[3]);
    reply = words[4];
    in_flight = count > 5 ? atoi(words[5]) : 100;
    first = count > 6 ? atoi(words[6]) : 0;
    missed = count > 7 ? atoi(words[7]) : -1;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    clients = calloc((size_t)sockets, sizeof *clients);
    if (clients == NULL) fail("calloc");
    poller = epoll_create1(0);
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &input) < 0) fail("standard input");
    double begin = now(), all_ready = 0, cpu_then = 0;
    int all_complete = 0;
    unsigned long long events_then = 0;
    connect_next();
    for (;;) {
        struct epoll_event found[EVENTS];
        int some = epoll_wait(poller, found, EVENTS, closed > 0 && missed >= 0 ? 50 : -1);
        if (closed > 0 && missed >= 0) come_again();
        for (int i = 0; i < some; i++) {
            struct client *c = found[i].data.ptr;
            if (c == NULL) {
                char line[64];
                ssize_t got = read(STDIN_FILENO, line, sizeof line);
                if (got <= 0) {
                    double wall = now() - all_ready;
                    printf("{\"events\":%llu,\"bytes\":%llu,\"cpu\":%.3f,\"wall\":%.3f,\"closed\":%d,"
                           "\"told\":%d,\"untold\":%d}\n",
                           events - events_then, bytes, cpu() - cpu_then, wall, closed, told, untold);
                    return 0;
                }
                continue;
            }
            if (c->stage == CLOSED) continue;
            if (c->stage == CONNECTING) writable(c);
            if (found[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        if (all_ready == 0 && ready == sockets) {
            all_ready = now();
            cpu_then = cpu();
            events_then = events;
            printf("{\"ready\":%d,\"seconds\":%.3f}\n", ready, all_ready - begin);
            fflush(stdout);
        }
        if (missed >= 0 && !all_complete && complete == sockets) {
            all_complete = 1;
            printf("{\"complete\":%d,\"seconds\":%.3f,\"told\":%d,\"untold\":%d}\n", complete, now() - begin, told,
                   untold);
            fflush(stdout);
        }
        if (closed > 0 && all_ready == 0 && missed < 0) {
            fprintf(stderr, "generator: %d connections were closed before all were there\n", closed);
            return 1;
        }
    }
}
