// A code filter: lets an order through that has the tag `urgent`, or whose body says `URGENT`.
//
//   clang --target=wasm32 -O2 -nostdlib -Wl,--no-entry,-z,stack-size=16384 -o urgent.wasm urgent.c
//   apogee filter attach orders billing urgent.wasm
//
// What is above the line is the filter; what is below it is the same in every filter.

typedef unsigned char byte;
typedef unsigned int size;

// Whether the first `len` bytes of two texts are the same; `__builtin_memcmp` would need a library.
static int same(const byte *a, const char *b, size len) {
    for (size i = 0; i < len; i++) {
        if (a[i] != (byte)b[i]) return 0;
    }
    return 1;
}

// Says whether a message is let through. Properties are pairs, name, byte 1, value, byte 2, repeated.
static int wanted(const byte *properties, size properties_len, const byte *body, size body_len) {
    for (size begin = 0, end = 0; end < properties_len; end++) {
        if (properties[end] != 2) continue;
        if (end - begin == 11 && same(properties + begin, "TAGS\1urgent", 11)) return 1;
        begin = end + 1;
    }
    for (size i = 0; i + 6 <= body_len; i++) {
        if (same(body + i, "URGENT", 6)) return 1;
    }
    return 0;
}

// --------------------------------------------------------------------------------------------------------------------

// Bytes of a page of memory.
#define PAGE 65536

// Returns where the server writes `len` bytes: in new pages. Each message meets a fresh instance, so nothing is given back.
__attribute__((export_name("alloc"))) byte *alloc(size len) {
    size before = __builtin_wasm_memory_grow(0, (len + PAGE - 1) / PAGE);
    // More than the server lets a message have; such a one is not delivered.
    if (before == (size)-1) __builtin_trap();
    return (byte *)(before * PAGE);
}

// Called by the server with what it wrote at the places that `alloc` gave.
__attribute__((export_name("filter"))) int filter(const byte *properties, size properties_len, const byte *body, size body_len) {
    return wanted(properties, properties_len, body, body_len);
}
