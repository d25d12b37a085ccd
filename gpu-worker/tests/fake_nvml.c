/* A library with NVML's C interface, as far as push0 uses it, whose devices are lines of the file `state` beside it:
 *
 *   gpu UUID NAME TOTAL_MIB USED_MIB UTILISATION CELSIUS MILLIWATTS ECC_ERRORS STATUS
 *   mig GPU_UUID UUID TOTAL_MIB USED_MIB
 *   xid UUID NUMBER
 *
 * STATUS is what calls about the device return: 0, or an nvmlReturn_t such as 15 (the GPU is lost). The xids are events, each delivered once.
 * Signatures, numbers and structs are those of nvml.h. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TIMEOUT = 10 };
enum { MOST = 16, LINE = 256 };

struct device {
    char uuid[96], gpu[96], name[64];
    unsigned long long total, used, ecc;
    unsigned utilisation, celsius, milliwatts;
    int status, is_part;
};
struct xid { char uuid[96]; unsigned long long number; };
struct state { struct device devices[MOST]; int count; struct xid xids[MOST]; int xid_count; };

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct { unsigned gpu, memory; } nvmlUtilization_t;
typedef struct { void *device; unsigned long long eventType, eventData; unsigned gpuInstanceId, computeInstanceId; } nvmlEventData_t;

/* A handle is the number of a UUID that was seen: it stays good while the file changes. */
static char known[MOST][96];
static int known_count, delivered;

static void read_state(struct state *state) {
    Dl_info own;
    char path[4096], line[LINE];
    memset(state, 0, sizeof *state);
    dladdr((void *)read_state, &own);
    snprintf(path, sizeof path, "%s", own.dli_fname);
    snprintf(strrchr(path, '/') + 1, 8, "state");
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        struct device *device = &state->devices[state->count];
        struct xid *xid = &state->xids[state->xid_count];
        if (sscanf(line, "gpu %95s %63s %llu %llu %u %u %u %llu %d", device->uuid, device->name, &device->total, &device->used,
                   &device->utilisation, &device->celsius, &device->milliwatts, &device->ecc, &device->status) == 9) {
            strcpy(device->gpu, device->uuid);
            state->count++;
        } else if (sscanf(line, "mig %95s %95s %llu %llu", device->gpu, device->uuid, &device->total, &device->used) == 4) {
            device->is_part = 1;
            state->count++;
        } else if (sscanf(line, "xid %95s %llu", xid->uuid, &xid->number) == 2) {
            state->xid_count++;
        }
    }
    if (file) fclose(file);
    for (int at = 0; at < state->count; at++)
        for (int other = 0; state->devices[at].is_part && other < state->count; other++)
            if (!strcmp(state->devices[other].uuid, state->devices[at].gpu)) {
                state->devices[at].status = state->devices[other].status;
                strcpy(state->devices[at].name, state->devices[other].name);
            }
}

static void *handle(const char *uuid) {
    int at = 0;
    while (at < known_count && strcmp(known[at], uuid)) at++;
    if (at == known_count) strcpy(known[known_count++], uuid);
    return (void *)(long)(at + 1);
}

static int find(void *wanted, struct state *state, struct device **found) {
    read_state(state);
    for (int at = 0; at < state->count; at++)
        if (!strcmp(state->devices[at].uuid, known[(long)wanted - 1])) {
            *found = &state->devices[at];
            return (*found)->status;
        }
    return NOT_FOUND;
}

#define DEVICE(wanted) \
    struct state state; \
    struct device *device; \
    int status = find(wanted, &state, &device); \
    if (status != OK) return status

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "550.54.15");
    return OK;
}

/* The number of the GPU at an index, or among all of them. */
static struct device *gpu_at(struct state *state, unsigned index, unsigned *count) {
    struct device *found = NULL;
    *count = 0;
    for (int at = 0; at < state->count; at++) {
        if (state->devices[at].is_part) continue;
        if (*count == index) found = &state->devices[at];
        ++*count;
    }
    return found;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    struct state state;
    read_state(&state);
    gpu_at(&state, 0, count);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **found) {
    struct state state;
    unsigned count;
    read_state(&state);
    struct device *device = gpu_at(&state, index, &count);
    if (!device) return INVALID;
    *found = handle(device->uuid);
    return device->status;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **found) {
    *found = handle(uuid);
    DEVICE(*found);
    return OK;
}

int nvmlDeviceGetUUID(void *wanted, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", known[(long)wanted - 1]);
    return OK;
}

int nvmlDeviceGetName(void *wanted, char *name, unsigned length) {
    DEVICE(wanted);
    snprintf(name, length, "%s", device->name);
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *wanted, nvmlMemory_v2_t *memory) {
    DEVICE(wanted);
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID;
    memory->total = device->total << 20;
    memory->used = device->used << 20;
    memory->free = memory->total - memory->used;
    memory->reserved = 0;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *wanted, nvmlUtilization_t *rates) {
    DEVICE(wanted);
    if (device->is_part) return NOT_SUPPORTED;
    rates->gpu = device->utilisation;
    rates->memory = 0;
    return OK;
}

int nvmlDeviceGetTemperature(void *wanted, unsigned sensor, unsigned *celsius) {
    DEVICE(wanted);
    *celsius = device->celsius;
    return sensor == 0 ? OK : INVALID;
}

int nvmlDeviceGetPowerUsage(void *wanted, unsigned *milliwatts) {
    DEVICE(wanted);
    *milliwatts = device->milliwatts;
    return OK;
}

int nvmlDeviceGetTotalEccErrors(void *wanted, unsigned type, unsigned counter, unsigned long long *errors) {
    DEVICE(wanted);
    *errors = device->ecc;
    return type == 1 && counter == 0 ? OK : INVALID;
}

static int parts_of(struct state *state, struct device *gpu, unsigned index, struct device **found) {
    unsigned count = 0;
    for (int at = 0; at < state->count; at++)
        if (state->devices[at].is_part && !strcmp(state->devices[at].gpu, gpu->uuid) && count++ == index) *found = &state->devices[at];
    return count;
}

int nvmlDeviceGetMigMode(void *wanted, unsigned *current, unsigned *pending) {
    DEVICE(wanted);
    struct device *ignored;
    *current = *pending = parts_of(&state, device, 0, &ignored) > 0;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *wanted, unsigned *count) {
    DEVICE(wanted);
    *count = 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *wanted, unsigned index, void **found) {
    DEVICE(wanted);
    struct device *part = NULL;
    parts_of(&state, device, index, &part);
    if (!part) return NOT_FOUND;
    *found = handle(part->uuid);
    return OK;
}

int nvmlEventSetCreate(void **set) {
    *set = malloc(1);
    return OK;
}

int nvmlEventSetFree(void *set) {
    free(set);
    return OK;
}

int nvmlDeviceGetSupportedEventTypes(void *wanted, unsigned long long *types) {
    DEVICE(wanted);
    *types = 0x0f;
    return OK;
}

int nvmlDeviceRegisterEvents(void *wanted, unsigned long long types, void *set) {
    DEVICE(wanted);
    return types && set ? OK : INVALID;
}

int nvmlEventSetWait_v2(void *set, nvmlEventData_t *data, unsigned timeout_ms) {
    struct state state;
    (void)set;
    for (unsigned waited = 0;; waited += 5) {
        read_state(&state);
        if (delivered < state.xid_count) {
            struct xid *xid = &state.xids[delivered++];
            memset(data, 0, sizeof *data);
            data->device = handle(xid->uuid);
            data->eventType = 0x08;
            data->eventData = xid->number;
            return OK;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        usleep(5000);
    }
}
