/*
 * A tiny HTTP server to watch a cluster with: it answers its host name, its version and the address of its client.
 *
 *   whoami [PORT]         serves until SIGTERM: then it stops accepting, finishes what is in flight and exits 0
 *   whoami healthcheck    asks the local server for /healthz; exit status 0 if it is well
 *
 * GET / is three lines of text, GET /healthz "ok", GET /slow?MS an answer after MS milliseconds. Connections are kept
 * alive; one thread and poll() serve them all. Environment: PORT, START_DELAY_MS (be unready first), UNHEALTHY=1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef VERSION
#define VERSION "0"
#endif

enum {
  CONNECTIONS_MAX = 1024,
  REQUEST_BYTES_MAX = 8192,
  ANSWER_BYTES_MAX = 1024,
  IDLE_TIMEOUT_MS = 60000,
  /* After SIGTERM: clients that keep a connection open without asking are waited for no longer than this. */
  LINGER_MS = 3000,
  HEALTH_TIMEOUT_S = 2,
};

struct connection {
  int fd;
  char request[REQUEST_BYTES_MAX];
  size_t filled;
  /* Not 0: an answer is due at this time. */
  long long due_ms;
  long long last_ms;
  char client[INET6_ADDRSTRLEN];
  int keeps_alive;
};

static volatile sig_atomic_t stopping;
static struct connection connections[CONNECTIONS_MAX];
static int connection_count;
static char host_name[256];
static long long ready_ms;

static void on_signal(int signal_number) {
  (void)signal_number;
  stopping = 1;
}

static long long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static int write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t count = send(fd, bytes, length, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      struct pollfd waiting = {.fd = fd, .events = POLLOUT};
      if (poll(&waiting, 1, 1000) <= 0) return -1;
      continue;
    }
    if (count <= 0) return -1;
    bytes += count;
    length -= (size_t)count;
  }
  return 0;
}

static int answer(struct connection *connection, int status, const char *body) {
  char text[ANSWER_BYTES_MAX];
  int closes = stopping || !connection->keeps_alive;
  int length = snprintf(text, sizeof text,
                        "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n%s", status,
                        status == 200 ? "OK" : status == 404 ? "Not Found" : "Service Unavailable", strlen(body),
                        closes ? "close" : "keep-alive", body);
  if (write_all(connection->fd, text, (size_t)length) < 0) return -1;
  return closes ? -1 : 0;
}

static int answer_root(struct connection *connection) {
  char body[512];
  snprintf(body, sizeof body, "hostname: %s\nversion: %s\nclient: %s\n", host_name, VERSION, connection->client);
  return answer(connection, 200, body);
}

static int answer_health(struct connection *connection) {
  int is_well = getenv("UNHEALTHY") == NULL && now_ms() >= ready_ms;
  return answer(connection, is_well ? 200 : 503, is_well ? "ok\n" : "not ready\n");
}

/* The header block ends at `end`. -1: close the connection. */
static int serve_request(struct connection *connection, const char *end) {
  char path[256] = "";
  connection->keeps_alive = strstr(connection->request, "HTTP/1.0") == NULL;
  if (strcasestr(connection->request, "\r\nconnection: close") != NULL) connection->keeps_alive = 0;
  int is_known = sscanf(connection->request, "%*7s %255s", path) == 1;
  size_t used = (size_t)(end - connection->request);
  memmove(connection->request, end, connection->filled - used);
  connection->filled -= used;
  connection->request[connection->filled] = '\0';
  if (!is_known) return -1;
  if (strcmp(path, "/") == 0) return answer_root(connection);
  if (strcmp(path, "/healthz") == 0) return answer_health(connection);
  if (strncmp(path, "/slow", 5) == 0) {
    connection->due_ms = now_ms() + (path[5] == '?' ? atoi(path + 6) : 1000);
    return 0;
  }
  return answer(connection, 404, "not found\n");
}

static int serve_buffered(struct connection *connection) {
  while (connection->due_ms == 0) {
    const char *end = strstr(connection->request, "\r\n\r\n");
    if (end == NULL) return connection->filled + 1 >= REQUEST_BYTES_MAX ? -1 : 0;
    if (serve_request(connection, end + 4) < 0) return -1;
  }
  return 0;
}

static int read_request(struct connection *connection) {
  size_t room = REQUEST_BYTES_MAX - 1 - connection->filled;
  ssize_t count = recv(connection->fd, connection->request + connection->filled, room, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (count <= 0) return -1;
  connection->filled += (size_t)count;
  connection->request[connection->filled] = '\0';
  connection->last_ms = now_ms();
  return serve_buffered(connection);
}

static void close_connection(int index) {
  close(connections[index].fd);
  connection_count -= 1;
  connections[index] = connections[connection_count];
}

static void accept_all(int listener) {
  while (connection_count < CONNECTIONS_MAX) {
    struct sockaddr_in6 from;
    socklen_t length = sizeof from;
    int fd = accept4(listener, (struct sockaddr *)&from, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) return;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct connection *connection = &connections[connection_count];
    connection->request[0] = '\0';
    connection->fd = fd;
    connection->filled = 0;
    connection->due_ms = 0;
    connection->keeps_alive = 1;
    connection->last_ms = now_ms();
    inet_ntop(AF_INET6, &from.sin6_addr, connection->client, sizeof connection->client);
    if (strncmp(connection->client, "::ffff:", 7) == 0) {
      memmove(connection->client, connection->client + 7, strlen(connection->client + 7) + 1);
    }
    connection_count += 1;
  }
}

static int open_listener(int port) {
  int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  int on = 1, off = 0;
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port), .sin6_addr = in6addr_any};
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, SOMAXCONN) < 0) {
    perror("whoami: listen");
    exit(1);
  }
  return fd;
}

/* How long poll() may sleep: until the next delayed answer, else a second. */
static int next_timeout(void) {
  long long now = now_ms(), timeout = 1000;
  for (int index = 0; index < connection_count; index += 1) {
    long long due = connections[index].due_ms;
    if (due != 0 && due - now < timeout) timeout = due > now ? due - now : 0;
  }
  return (int)timeout;
}

/* -1: the connection is done with. */
static int serve_connection(struct connection *connection, short events, long long stop_ms) {
  if (connection->due_ms != 0 && now_ms() >= connection->due_ms) {
    connection->due_ms = 0;
    if (answer(connection, 200, "slow\n") < 0 || serve_buffered(connection) < 0) return -1;
  }
  if (events != 0 && connection->due_ms == 0 && read_request(connection) < 0) return -1;
  if (connection->due_ms != 0) return 0;
  if (stop_ms != 0 && connection->filled == 0 && now_ms() - stop_ms > LINGER_MS) return -1;
  return now_ms() - connection->last_ms > IDLE_TIMEOUT_MS ? -1 : 0;
}

static int serve(int port) {
  static struct pollfd polled[CONNECTIONS_MAX + 1];
  int listener = open_listener(port);
  long long stop_ms = 0;
  printf("whoami %s listens on %d as %s\n", VERSION, port, host_name);
  fflush(stdout);
  while (stop_ms == 0 || connection_count > 0) {
    if (stopping && stop_ms == 0) {
      stop_ms = now_ms();
      /* Connections that wait in the queue were accepted by the kernel: they are answered, not reset. */
      accept_all(listener);
      close(listener);
      listener = -1;
      printf("whoami %s drains %d connections\n", VERSION, connection_count);
      fflush(stdout);
    }
    int count = connection_count;
    for (int index = 0; index < count; index += 1) {
      polled[index] = (struct pollfd){.fd = connections[index].fd, .events = connections[index].due_ms == 0 ? POLLIN : 0};
    }
    polled[count] = (struct pollfd){.fd = listener, .events = POLLIN};
    if (poll(polled, (nfds_t)count + 1, next_timeout()) < 0 && errno != EINTR) return 1;
    for (int index = count - 1; index >= 0; index -= 1) {
      if (serve_connection(&connections[index], polled[index].revents, stop_ms) < 0) close_connection(index);
    }
    if (listener >= 0 && polled[count].revents != 0) accept_all(listener);
  }
  return 0;
}

static int healthcheck(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  struct timeval timeout = {.tv_sec = HEALTH_TIMEOUT_S};
  const char *request = "GET /healthz HTTP/1.0\r\n\r\n";
  char reply[256];
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 || write_all(fd, request, strlen(request)) < 0) {
    perror("healthcheck");
    return 1;
  }
  ssize_t count = recv(fd, reply, sizeof reply - 1, 0);
  reply[count > 0 ? count : 0] = '\0';
  close(fd);
  if (strstr(reply, " 200 ") != NULL) return 0;
  fprintf(stderr, "healthcheck: %.40s\n", reply);
  return 1;
}

int main(int argc, char **argv) {
  const char *port_text = getenv("PORT");
  int port = port_text == NULL ? 80 : atoi(port_text);
  if (argc > 1 && strcmp(argv[1], "healthcheck") == 0) return healthcheck(port);
  if (argc > 1) port = atoi(argv[1]);
  const char *delay = getenv("START_DELAY_MS");
  ready_ms = now_ms() + (delay == NULL ? 0 : atoi(delay));
  gethostname(host_name, sizeof host_name - 1);
  struct sigaction action = {.sa_handler = on_signal};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGINT, &action, NULL);
  return serve(port);
}
