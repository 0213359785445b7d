/* Buffer: bytes that grow. Part of _native.c. */

typedef struct { char *data; Py_ssize_t used, room; } Buffer;

static char *reserve(Buffer *buffer, Py_ssize_t bytes) {
    if (buffer->used + bytes > buffer->room) {
        Py_ssize_t room = buffer->room * 2 + bytes;
        char *data = PyMem_Realloc(buffer->data, (size_t)room);
        if (data == NULL) { PyErr_NoMemory(); return NULL; }
        buffer->data = data;
        buffer->room = room;
    }
    char *at = buffer->data + buffer->used;
    buffer->used += bytes;
    return at;
}

/* The lowest bytes of a number, in the network's order. Written out, which compilers make one instruction of. */
static inline char *put(char *at, unsigned long long number, int bytes) {
    unsigned char all[8] = {
        (unsigned char)(number >> 56), (unsigned char)(number >> 48), (unsigned char)(number >> 40), (unsigned char)(number >> 32),
        (unsigned char)(number >> 24), (unsigned char)(number >> 16), (unsigned char)(number >> 8), (unsigned char)number,
    };
    memcpy(at, all + 8 - bytes, (size_t)bytes);
    return at + bytes;
}

static unsigned long long get(const unsigned char *at, int bytes) {
    unsigned long long number = 0;
    for (int byte = 0; byte < bytes; byte++) number = number << 8 | at[byte];
    return number;
}
