/* Is a message the shape that ramet.call.wire writes? Asked before anything is built of it.
 *
 * msgspec reads msgpack; what it can't be told is that keys of maps are text. With keys of a sandbox's choice, whose hashes
 * it can make alike, a dictionary of some megabytes takes the caller hours to build. Text is hashed with a secret.
 */
#include "core.h"

const char core_msgpack_check_doc[] =
    "msgpack_check(data)\n"
    "--\n\n"
    "Is data one whole msgpack value, nested 256 levels at most, with text for every key of its maps?\n"
    "What is inside extensions is not looked at.";

#define DEPTH 256

enum kind { ATOM, TEXT, LIST, MAP, INVALID };

struct token {
    enum kind kind;
    unsigned length_bytes; /* a length of so many bytes follows the first byte */
    uint64_t fixed;        /* the length itself, where it is in the first byte; for others, what is behind it anyway */
};

static struct token token_of(unsigned char b)
{
    if (b < 0x80 || b >= 0xe0)
        return (struct token){ATOM, 0, 0};
    if (b < 0x90)
        return (struct token){MAP, 0, b & 15};
    if (b < 0xa0)
        return (struct token){LIST, 0, b & 15};
    if (b < 0xc0)
        return (struct token){TEXT, 0, b & 31};
    switch (b) {
    case 0xc0: case 0xc2: case 0xc3: return (struct token){ATOM, 0, 0};
    case 0xc4: case 0xc5: case 0xc6: return (struct token){ATOM, 1u << (b - 0xc4), 0};
    case 0xc7: case 0xc8: case 0xc9: return (struct token){ATOM, 1u << (b - 0xc7), 1}; /* and the extension's code */
    case 0xca: return (struct token){ATOM, 0, 4};
    case 0xcb: return (struct token){ATOM, 0, 8};
    case 0xcc: case 0xcd: case 0xce: case 0xcf: return (struct token){ATOM, 0, 1u << (b - 0xcc)};
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: return (struct token){ATOM, 0, 1u << (b - 0xd0)};
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return (struct token){ATOM, 0, (1u << (b - 0xd4)) + 1};
    case 0xd9: case 0xda: case 0xdb: return (struct token){TEXT, 1u << (b - 0xd9), 0};
    case 0xdc: case 0xdd: return (struct token){LIST, 2u << (b - 0xdc), 0};
    case 0xde: case 0xdf: return (struct token){MAP, 2u << (b - 0xde), 0};
    default: return (struct token){INVALID, 0, 0};
    }
}

static int check(const unsigned char *at, size_t left)
{
    struct {
        uint64_t items; /* still to come; of a map keys and values count */
        int is_map;
    } open[DEPTH] = {{1, 0}};
    int depth = 0;
    while (depth >= 0) {
        if (open[depth].items == 0) {
            depth--;
            continue;
        }
        int is_key = open[depth].is_map && open[depth].items % 2 == 0;
        open[depth].items--;
        if (left < 1)
            return 0;
        struct token token = token_of(*at);
        at++, left--;
        if (token.kind == INVALID || (is_key && token.kind != TEXT) || left < token.length_bytes)
            return 0;
        uint64_t length = 0;
        for (unsigned i = 0; i < token.length_bytes; i++)
            length = length << 8 | *at++;
        left -= token.length_bytes;
        length += token.fixed;
        if (token.kind == MAP)
            length *= 2;
        if (length > left) /* every item takes a byte at least */
            return 0;
        if (token.kind == LIST || token.kind == MAP) {
            if (++depth == DEPTH)
                return 0;
            open[depth].items = length;
            open[depth].is_map = token.kind == MAP;
        } else {
            at += length;
            left -= length;
        }
    }
    return left == 0;
}

PyObject *core_msgpack_check(PyObject *module, PyObject *data)
{
    Py_buffer view;
    (void)module;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE))
        return NULL;
    int fits = check(view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return PyBool_FromLong(fits);
}
