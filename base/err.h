/* Errors are values. A function that can fail returns an err_code and fills the caller's struct err
 * once, where the fault is found; outputs stay untouched on failure. Thread: any; each struct err
 * belongs to its caller. Only server/ knows HTTP status, only main exits. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

enum err_code {
    ERR_OK = 0,
    ERR_INVALID,     /* the caller's input is wrong; msg names what and, where it can, the limit */
    ERR_NOT_FOUND,   /* a file, model, key or route that is not there */
    ERR_LIMIT,       /* larger than a limit allows, for ever */
    ERR_FULL,        /* no room now; the same call may succeed later */
    ERR_NOMEM,       /* the allocator or the kernel refused memory */
    ERR_IO,          /* a system call failed; msg holds strerror */
    ERR_CORRUPT,     /* a file contradicts its own format; msg names key or tensor and offset */
    ERR_UNSUPPORTED, /* well formed, but not something this build can do */
    ERR_CANCELLED,   /* the other side gave up first */
    ERR_TIMEOUT,     /* a deadline passed */
    ERR_INTERNAL,    /* a bug in Kvasir */
};

struct err {
    enum err_code code;
    char msg[512]; /* one line, UTF-8, no trailing newline or full stop */
};

/* Fills e (NULL is legal) and returns code. Longer messages are cut at a character boundary. */
enum err_code err_set(struct err *e, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with ": strerror(errno_value)" appended. */
enum err_code err_errno(struct err *e, enum err_code code, int errno_value, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Short lower-case word for logs and metrics: "invalid", "full", … Never NULL. */
const char *err_code_name(enum err_code code);

#endif
