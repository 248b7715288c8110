/*
 * rabbitmq-c, the client in C that the others are held against.
 *
 *     rabbitmqc HOST PORT USER PASSWORD VHOST QUEUE CASE COUNT SIZE WINDOW PREFETCH
 *
 * The cases are those of the Python scripts; the result is a line of JSON like theirs.
 * The driver builds it where the library's headers are (Debian: librabbitmq-dev).
 */

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static char **args;
static amqp_bytes_t queue, body;
static long count;
static int window, prefetch;
static amqp_connection_state_t connection;

static void die(const char *what)
{
    fprintf(stderr, "rabbitmqc: %s\n", what);
    exit(1);
}

static void check(amqp_rpc_reply_t reply, const char *what)
{
    if (reply.reply_type != AMQP_RESPONSE_NORMAL)
        die(what);
}

static void answered(const char *what)
{
    check(amqp_get_rpc_reply(connection), what);
}

/* -- measuring ---------------------------------------------------------------- */

static double user, kernel, wall;
static long resident_before;

static double seconds(struct timeval time)
{
    return time.tv_sec + time.tv_usec / 1e6;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static long resident(void)
{
    long size = 0, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2)
        die("no /proc");
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static long peak(void)
{
    char line[256];
    long size = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld", &size) == 1)
            break;
    if (!file || !size)
        die("no /proc");
    fclose(file);
    return size * 1024;
}

static void start(void)
{
    struct rusage usage;
    resident_before = resident();
    getrusage(RUSAGE_SELF, &usage);
    user = -seconds(usage.ru_utime);
    kernel = -seconds(usage.ru_stime);
    wall = -now();
}

static void stop(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    user += seconds(usage.ru_utime);
    kernel += seconds(usage.ru_stime);
    wall += now();
    printf("{\"user\": %.6f, \"system\": %.6f, \"wall\": %.6f, \"peak\": %ld, "
           "\"grown\": %ld, \"lag\": null, \"versions\": {\"rabbitmq-c\": \"%s\"}}\n",
           user, kernel, wall, peak(),
           resident() - resident_before, amqp_version());
}

/* -- the cases ---------------------------------------------------------------- */

static amqp_connection_state_t open_connection(void)
{
    amqp_connection_state_t state = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(state);
    if (amqp_socket_open(socket, args[1], atoi(args[2])))
        die("no connection");
    check(amqp_login(state, args[5], 65535, 131072, 0, AMQP_SASL_METHOD_PLAIN, args[3],
                     args[4]),
          "login");
    return state;
}

static void close_connection(amqp_connection_state_t state)
{
    amqp_connection_close(state, AMQP_REPLY_SUCCESS);
    amqp_destroy_connection(state);
}

static void round_trip(void)
{
    amqp_queue_declare(connection, 1, queue, 1, 0, 0, 0, amqp_empty_table);
    answered("queue.declare");
}

static void send_message(void)
{
    if (amqp_basic_publish(connection, 1, amqp_empty_bytes, queue, 0, 0, NULL, body))
        die("basic.publish");
}

static void publish(void)
{
    start();
    for (long i = 0; i < count; i++)
        send_message();
    round_trip();
    stop();
}

/* Takes the broker's confirms: those that are there, and one at least if it must. */
static long take_confirms(long confirmed, int must)
{
    struct timeval none = {0, 0};
    amqp_frame_t frame;
    for (;;) {
        int status = amqp_simple_wait_frame_noblock(connection, &frame,
                                                    must ? NULL : &none);
        if (status == AMQP_STATUS_TIMEOUT)
            return confirmed;
        if (status || frame.frame_type != AMQP_FRAME_METHOD ||
            frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
            die("no confirm");
        amqp_basic_ack_t *ack = frame.payload.method.decoded;
        /* RabbitMQ answers for a single queue in order. */
        if ((long)ack->delivery_tag > confirmed)
            confirmed = ack->delivery_tag;
        amqp_maybe_release_buffers(connection);
        must = 0;
    }
}

static void confirm(void)
{
    long confirmed = 0;
    amqp_confirm_select(connection, 1);
    answered("confirm.select");
    start();
    for (long i = 0; i < count; i++) {
        if (i - confirmed >= window)
            confirmed = take_confirms(confirmed, 1);
        send_message();
    }
    while (confirmed < count)
        confirmed = take_confirms(confirmed, 1);
    stop();
}

static void begin_consuming(int no_ack)
{
    if (!no_ack) {
        amqp_basic_qos(connection, 1, 0, prefetch, 0);
        answered("basic.qos");
    }
    start();
    amqp_basic_consume(connection, 1, queue, amqp_empty_bytes, 0, no_ack, 0,
                       amqp_empty_table);
    answered("basic.consume");
}

static void take(amqp_envelope_t *envelope)
{
    amqp_maybe_release_buffers(connection);
    check(amqp_consume_message(connection, envelope, NULL, 0), "basic.deliver");
}

static void consume(void)
{
    begin_consuming(1);
    for (long i = 0; i < count; i++) {
        amqp_envelope_t envelope;
        take(&envelope);
        amqp_destroy_envelope(&envelope);
    }
    stop();
}

static void ack(void)
{
    begin_consuming(0);
    for (long i = 0; i < count; i++) {
        amqp_envelope_t envelope;
        take(&envelope);
        if (amqp_basic_ack(connection, 1, envelope.delivery_tag, 0))
            die("basic.ack");
        amqp_destroy_envelope(&envelope);
    }
    round_trip();
    stop();
}

static void keep(void)
{
    amqp_envelope_t *kept = malloc(count * sizeof *kept);
    begin_consuming(1);
    for (long i = 0; i < count; i++)
        take(&kept[i]);
    stop();
}

static void get(void)
{
    start();
    for (long i = 0; i < count; i++) {
        amqp_message_t message;
        amqp_maybe_release_buffers(connection);
        amqp_rpc_reply_t reply = amqp_basic_get(connection, 1, queue, 1);
        check(reply, "basic.get");
        if (reply.reply.id != AMQP_BASIC_GET_OK_METHOD)
            die("the queue is empty");
        check(amqp_read_message(connection, 1, &message, 0), "basic.get-ok");
        amqp_destroy_message(&message);
    }
    stop();
}

static void declare(void)
{
    start();
    for (long i = 0; i < count; i++) {
        round_trip();
        amqp_maybe_release_buffers(connection);
    }
    stop();
}

static void declare_pipelined(void)
{
    amqp_queue_declare_t method;
    memset(&method, 0, sizeof method);
    method.queue = queue;
    method.passive = 1;
    start();
    for (long sent = 0, received = 0; received < count;) {
        long last = sent + 100 < count ? sent + 100 : count;
        for (; sent < last; sent++)
            if (amqp_send_method(connection, 1, AMQP_QUEUE_DECLARE_METHOD, &method))
                die("queue.declare");
        for (; received < sent; received++) {
            amqp_method_t answer;
            if (amqp_simple_wait_method(connection, 1, AMQP_QUEUE_DECLARE_OK_METHOD,
                                        &answer))
                die("queue.declare-ok");
            amqp_maybe_release_buffers(connection);
        }
    }
    stop();
}

static void connect_and_close(void)
{
    start();
    for (long i = 0; i < count; i++)
        close_connection(open_connection());
    stop();
}

static void channels(void)
{
    start();
    for (long i = 0; i < count; i++) {
        amqp_channel_open(connection, i + 2);
        answered("channel.open");
        amqp_maybe_release_buffers(connection);
    }
    stop();
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"publish", publish},
    {"confirm", confirm},
    {"consume", consume},
    {"ack", ack},
    {"keep", keep},
    {"get", get},
    {"declare", declare},
    {"declare_pipelined", declare_pipelined},
    {"connect", connect_and_close},
    {"channels", channels},
};

int main(int argc, char **argv)
{
    if (argc != 12)
        die("wrong arguments");
    args = argv;
    queue = amqp_cstring_bytes(argv[6]);
    count = atol(argv[8]);
    body.len = atol(argv[9]);
    body.bytes = malloc(body.len);
    memset(body.bytes, 'x', body.len);
    window = atoi(argv[10]);
    prefetch = atoi(argv[11]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!strcmp(argv[7], cases[i].name)) {
            connection = open_connection();
            amqp_channel_open(connection, 1);
            answered("channel.open");
            cases[i].run();
            close_connection(connection);
            return 0;
        }
    puts("{\"missing\": true}");
    return 0;
}
