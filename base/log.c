#include "base/log.h"

#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_TEXT_MAX 1024

/* Written once by log_init before any other thread exists. */
static enum log_level max_level = LOG_LEVEL_INFO;
static bool as_json = false;

void log_init(enum log_level level, bool json)
{
    max_level = level;
    as_json = json;
}

bool log_enabled(enum log_level level)
{
    return level <= max_level;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if (!log_enabled(level)) {
        return;
    }
    char text[LOG_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);

    struct timespec now;
    struct tm utc;
    char stamp[32];
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)gmtime_r(&now.tv_sec, &utc);
    (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &utc);

    struct buf line = {0};
    if (as_json) {
        buf_printf(&line, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"msg\":", stamp,
                   now.tv_nsec / 1000000, names[level]);
        buf_json_string(&line, text, strlen(text));
        buf_puts(&line, "}\n");
    } else {
        buf_printf(&line, "%s.%03ldZ %-5s %s\n", stamp, now.tv_nsec / 1000000, names[level], text);
    }
    if (buf_ok(&line)) {
        /* One write per line keeps lines whole; a full pipe or closed stderr loses the line only.
         */
        ssize_t written = write(STDERR_FILENO, line.data, line.len);
        (void)written;
    }
    buf_free(&line);
}
