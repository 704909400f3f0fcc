/* The option --lora: NAME=FILE[:SCALE], several with commas between. */
#ifndef SERVER_LORA_OPTION_H
#define SERVER_LORA_OPTION_H

#include "base/err.h"
#include "engine/engine.h"

#include <stdint.h>

struct srv_lora_list {
    struct eng_adapter_file *files; /* [n], strings in text */
    uint32_t n;
    char *text;
};

#define SRV_LORA_MAX 1024

/* text NULL: none. Names are unique, without a colon. ERR_INVALID names what is wrong. */
enum err_code srv_lora_parse(const char *text, struct srv_lora_list *ret_l, struct err *e);
void srv_lora_finish(struct srv_lora_list *l); /* of a zeroed one too */

#endif
