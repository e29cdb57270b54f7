/*
 * malloc and its kin for all faces, instead of the C library's. Those of a monitor, which lives as long as its container, must cost little:
 * small things lie in one piece of the program's own zeroed data, so they take neither page tables nor pages beside it, and what was
 * needed for the start only is given back. First fit in the order of addresses. One thread, as all of this program.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util.h"

enum { ARENA_BYTES = 1 << 20, LARGE_BYTES = 128 << 10, ALIGNMENT = 16, PAGE_BYTES = 4096, IS_MAPPED = 1 };

/* Before each piece that was given away, and each free one. */
struct block {
  size_t size; /* with this head; a mapping of its own has IS_MAPPED in it */
  struct block *next; /* free ones only */
};
_Static_assert(sizeof(struct block) == ALIGNMENT, "what follows a head is aligned");

/* Behind all other data, and so on the page where the small ones of it end. The mark says that it is zeroed and takes no room in the file. */
static alignas(ALIGNMENT) __attribute__((section(".heap,\"aw\",@nobits#"))) char arena[ARENA_BYTES];
/* Nothing beyond `top` is in use; nothing beyond `touched` ever was since it was last given back. */
static size_t top, touched;
static struct block *free_blocks;

static char *end_of(struct block *block) { return (char *)block + block->size; }

static struct block *map_block(size_t size) {
  size_t whole = (size + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
  struct block *block = whole < size ? MAP_FAILED : mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return NULL;
  block->size = whole | IS_MAPPED;
  return block;
}

/* Cuts what is too much off; the rest stays free in its place. */
static struct block *take_free(size_t size) {
  for (struct block **link = &free_blocks; *link != NULL; link = &(*link)->next) {
    struct block *block = *link;
    if (block->size < size) continue;
    if (block->size - size < 2 * ALIGNMENT) {
      *link = block->next;
      return block;
    }
    struct block *rest = (struct block *)((char *)block + size);
    rest->size = block->size - size;
    rest->next = block->next;
    *link = rest;
    block->size = size;
    return block;
  }
  return NULL;
}

/* Under a name that the compiler makes nothing of: it would turn this and a memset into a call of calloc. */
static void *allocate(size_t length) {
  size_t size = ((length + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1)) + sizeof(struct block);
  if (length == 0) size = 2 * ALIGNMENT;
  if (size < length || size > PTRDIFF_MAX) {
    errno = ENOMEM;
    return NULL;
  }
  struct block *block = size > LARGE_BYTES ? map_block(size) : take_free(size);
  if (block == NULL && size <= LARGE_BYTES && ARENA_BYTES - top >= size) {
    block = (struct block *)(arena + top);
    block->size = size;
    top += size;
    if (touched < top) touched = top;
  } else if (block == NULL && size <= LARGE_BYTES) {
    block = map_block(size);
  }
  if (block == NULL) errno = ENOMEM;
  return block == NULL ? NULL : block + 1;
}

void *malloc(size_t length) { return allocate(length); }

void free(void *piece) {
  if (piece == NULL) return;
  struct block *block = (struct block *)piece - 1, *before = NULL;
  int problem = errno;
  if (block->size & IS_MAPPED) {
    munmap(block, block->size & ~(size_t)IS_MAPPED);
    errno = problem;
    return;
  }
  struct block **link = &free_blocks;
  for (; *link != NULL && *link < block; link = &(*link)->next) before = *link;
  block->next = *link;
  *link = block;
  if (block->next != NULL && end_of(block) == (char *)block->next) {
    block->size += block->next->size;
    block->next = block->next->next;
  }
  if (before != NULL && end_of(before) == (char *)block) {
    before->size += block->size;
    before->next = block->next;
    block = before;
  }
  if (end_of(block) != arena + top) return;
  /* The last one: it is no block any more. */
  for (link = &free_blocks; *link != block; link = &(*link)->next) continue;
  *link = NULL;
  top = (size_t)((char *)block - arena);
}

void *calloc(size_t count, size_t length) {
  size_t whole;
  if (__builtin_mul_overflow(count, length, &whole)) {
    errno = ENOMEM;
    return NULL;
  }
  void *piece = allocate(whole);
  if (piece != NULL && (((struct block *)piece - 1)->size & IS_MAPPED) == 0) memset(piece, 0, whole);
  return piece;
}

void *realloc(void *piece, size_t length) {
  if (piece == NULL) return malloc(length);
  size_t room = (((struct block *)piece - 1)->size & ~(size_t)IS_MAPPED) - sizeof(struct block);
  if (length <= room && length > room / 2) return piece;
  void *more = malloc(length);
  if (more == NULL) return NULL;
  memcpy(more, piece, length < room ? length : room);
  free(piece);
  return more;
}

/* Whole pages between. */
static void release_pages(const char *from, const char *to) {
  uintptr_t first = ((uintptr_t)from + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1), end = (uintptr_t)to & ~(uintptr_t)(PAGE_BYTES - 1);
  if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
}

void release_heap(void) {
  for (struct block *block = free_blocks; block != NULL; block = block->next) release_pages((char *)(block + 1), end_of(block));
  if (touched > top) release_pages(arena + top, arena + ARENA_BYTES);
  touched = top;
}
