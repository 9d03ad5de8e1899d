// SPDX-License-Identifier: GPL-3.0-or-later

// A stand-in for NVIDIA's libnvidia-ml.so.1 that answers from a text file, for machines without a GPU. The file is named by
// LLORCH_NVML_STUB and read again on each call; without it there is no driver. See doc.go for its lines.

#include <ctype.h>
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef int ret_t;

enum {
	SUCCESS = 0,
	UNINITIALIZED = 1,
	INVALID_ARGUMENT = 2,
	NOT_SUPPORTED = 3,
	INSUFFICIENT_SIZE = 7,
	DRIVER_NOT_LOADED = 9,
	TIMEOUT = 10,
	GPU_IS_LOST = 15,
};

enum { MAX_CARDS = 16, MAX_PROCESSES = 256, MAX_EVENTS = 256, MAX_SETS = 16 };
enum { EVENT_DOUBLE_BIT_ECC = 2, EVENT_XID = 8 };

// NVML's own, as far as they are used.
struct memory {
	u64 total, free, used;
};
struct memory_v2 {
	unsigned version;
	u64 total, reserved, free, used;
};
struct utilization {
	unsigned gpu, memory;
};

struct card {
	int there, lost;
	char uuid[96], name[96];
	u64 total, used, ecc, energy, flow; // energy in millijoules, and so many more each second
	unsigned util, temp, power; // per cent, degrees, milliwatts
	int has_ecc, has_energy;
};
struct process {
	int card;
	unsigned pid;
	u64 used;
};
struct event {
	int card;
	u64 seq, type, data;
};
struct state {
	char driver[80];
	int cuda, lost, count, processes, events;
	struct card cards[MAX_CARDS];
	struct process process[MAX_PROCESSES];
	struct event event[MAX_EVENTS];
};

// What a handle points to is never looked into: its place says which card it is.
static char handles[MAX_CARDS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards what follows
static int inits;
static struct set {
	int open;
	u64 seen; // the last sequence number that was delivered
	u64 types[MAX_CARDS];
} sets[MAX_SETS];

// attr copies the value of ` key=value` or ` key="some value"`, and returns whether it is there.
static int attr(const char *line, const char *key, char *into, size_t size) {
	size_t n = strlen(key);
	for (const char *at = line; (at = strstr(at, key)) != NULL; at += n) {
		if (at == line || at[-1] != ' ' || at[n] != '=') continue;
		const char *from = at + n + 1, *to;
		if (*from == '"') {
			to = strchr(++from, '"');
			if (to == NULL) return 0;
		} else {
			to = from + strcspn(from, " \t\r\n");
		}
		size_t length = (size_t)(to - from) < size - 1 ? (size_t)(to - from) : size - 1;
		memcpy(into, from, length);
		into[length] = 0;
		return 1;
	}
	return 0;
}

static int number(const char *line, const char *key, u64 *into) {
	char text[32];
	if (!attr(line, key, text, sizeof text)) return 0;
	*into = strtoull(text, NULL, 10);
	return 1;
}

static void read_process(struct state *s, const char *line, int check_alive);

static void read_line(struct state *s, const char *line) {
	char word[16] = "", value[80] = "";
	u64 n = 0;
	if (sscanf(line, "%15s %79s", word, value) < 1 || word[0] == '#') return;
	if (strcmp(word, "driver") == 0) {
		strcpy(s->driver, value);
	} else if (strcmp(word, "cuda") == 0) {
		s->cuda = atoi(value);
	} else if (strcmp(word, "lost") == 0) {
		int i = atoi(value);
		if (value[0] == 0) s->lost = 1;
		else if (i >= 0 && i < MAX_CARDS) s->cards[i].lost = 1;
	} else if (strcmp(word, "card") == 0) {
		int i = atoi(value);
		if (i < 0 || i >= MAX_CARDS) return;
		struct card *c = &s->cards[i];
		c->there = 1;
		if (i >= s->count) s->count = i + 1;
		attr(line, "uuid", c->uuid, sizeof c->uuid);
		attr(line, "name", c->name, sizeof c->name);
		number(line, "total", &c->total);
		number(line, "used", &c->used);
		c->has_ecc = number(line, "ecc", &c->ecc);
		if (number(line, "util", &n)) c->util = (unsigned)n;
		if (number(line, "temp", &n)) c->temp = (unsigned)n;
		if (number(line, "power", &n)) c->power = (unsigned)n * 1000;
		c->has_energy = number(line, "energy", &c->energy);
		number(line, "flow", &c->flow);
	} else if (strcmp(word, "process") == 0) {
		read_process(s, line, 0);
	} else if ((strcmp(word, "xid") == 0 || strcmp(word, "ecc") == 0) && s->events < MAX_EVENTS) {
		struct event *e = &s->event[s->events];
		unsigned long long code = 0;
		if (sscanf(line, "%*s %d %llu", &e->card, &code) < 1 || e->card < 0 || e->card >= MAX_CARDS) return;
		e->type = word[0] == 'x' ? EVENT_XID : EVENT_DOUBLE_BIT_ECC;
		e->data = word[0] == 'x' ? code : 0;
		if (!number(line, "seq", &e->seq)) e->seq = (u64)s->events + 1;
		s->events++;
	}
}

// alive says whether a process runs. One that ended and was not reaped yet holds no memory of a card.
static int alive(unsigned pid) {
	if (kill((pid_t)pid, 0) != 0) return 0;
	char path[32], text[256];
	snprintf(path, sizeof path, "/proc/%u/stat", pid);
	FILE *f = fopen(path, "r");
	if (f == NULL) return 0;
	size_t n = fread(text, 1, sizeof text - 1, f);
	fclose(f);
	text[n] = 0;
	const char *after = strrchr(text, ')');
	return after == NULL || (after[2] != 'Z' && after[2] != 'X');
}

static void read_process(struct state *s, const char *line, int check_alive) {
	int card = -1;
	u64 pid = 0, used = 0;
	if (s->processes >= MAX_PROCESSES || sscanf(line, " process %d", &card) != 1 || card < 0 || card >= MAX_CARDS) return;
	if (!number(line, "pid", &pid) || !number(line, "used", &used) || (check_alive && !alive((unsigned)pid))) return;
	s->process[s->processes++] = (struct process){card, (unsigned)pid, used};
}

// read_claims reads what running programs say they hold: one file each in the directory beside the state.
static void read_claims(struct state *s, const char *path) {
	char dir[4096], file[4608], line[512];
	snprintf(dir, sizeof dir, "%s.d", path);
	DIR *d = opendir(dir);
	if (d == NULL) return;
	for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
		if (!isdigit((unsigned char)entry->d_name[0])) continue; // being written, under another name
		snprintf(file, sizeof file, "%s/%s", dir, entry->d_name);
		FILE *f = fopen(file, "r");
		if (f == NULL) continue;
		while (fgets(line, sizeof line, f) != NULL) read_process(s, line, 1);
		fclose(f);
	}
	closedir(d);
}

static ret_t load(struct state *s) {
	char line[1024];
	memset(s, 0, sizeof *s);
	const char *path = getenv("LLORCH_NVML_STUB");
	FILE *f = path == NULL ? NULL : fopen(path, "r");
	if (f == NULL) return DRIVER_NOT_LOADED;
	while (fgets(line, sizeof line, f) != NULL) read_line(s, line);
	fclose(f);
	if (s->lost) return DRIVER_NOT_LOADED;
	read_claims(s, path);
	return SUCCESS;
}

// enter loads the state for a call that needs nvmlInit.
static ret_t enter(struct state *s) {
	pthread_mutex_lock(&lock);
	int ready = inits > 0;
	pthread_mutex_unlock(&lock);
	return ready ? load(s) : UNINITIALIZED;
}

// find loads the state and finds a handle's card in it.
static ret_t find(void *device, struct state *s, struct card **c) {
	char *at = device;
	if (at < handles || at >= handles + MAX_CARDS) return INVALID_ARGUMENT;
	ret_t r = enter(s);
	if (r == DRIVER_NOT_LOADED) return GPU_IS_LOST;
	if (r != SUCCESS) return r;
	*c = &s->cards[at - handles];
	return !(*c)->there || (*c)->lost ? GPU_IS_LOST : SUCCESS;
}

static ret_t text(char *into, unsigned size, const char *from) {
	if (strlen(from) + 1 > size) return INSUFFICIENT_SIZE;
	strcpy(into, from);
	return SUCCESS;
}

static u64 used(const struct state *s, int card) {
	u64 sum = s->cards[card].used;
	for (int i = 0; i < s->processes; i++)
		if (s->process[i].card == card) sum += s->process[i].used;
	return sum < s->cards[card].total ? sum : s->cards[card].total;
}

ret_t nvmlInitWithFlags(unsigned flags) {
	struct state s;
	(void)flags;
	ret_t r = load(&s);
	if (r != SUCCESS) return r;
	pthread_mutex_lock(&lock);
	inits++;
	pthread_mutex_unlock(&lock);
	return SUCCESS;
}

ret_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
ret_t nvmlInit(void) { return nvmlInitWithFlags(0); }

ret_t nvmlShutdown(void) {
	pthread_mutex_lock(&lock);
	ret_t r = inits > 0 ? SUCCESS : UNINITIALIZED;
	if (inits > 0) inits--;
	pthread_mutex_unlock(&lock);
	return r;
}

const char *nvmlErrorString(ret_t r) {
	switch (r) {
	case SUCCESS: return "Success";
	case UNINITIALIZED: return "Uninitialized";
	case INVALID_ARGUMENT: return "Invalid Argument";
	case NOT_SUPPORTED: return "Not Supported";
	case INSUFFICIENT_SIZE: return "Insufficient Size";
	case DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case TIMEOUT: return "Timeout";
	case GPU_IS_LOST: return "GPU is lost";
	}
	return "Unknown Error";
}

ret_t nvmlSystemGetDriverVersion(char *version, unsigned size) {
	struct state s;
	ret_t r = enter(&s);
	return r == SUCCESS ? text(version, size, s.driver) : r;
}

ret_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
	struct state s;
	ret_t r = enter(&s);
	if (r == SUCCESS) *version = s.cuda;
	return r;
}

ret_t nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

ret_t nvmlDeviceGetCount_v2(unsigned *count) {
	struct state s;
	ret_t r = enter(&s);
	if (r == SUCCESS) *count = (unsigned)s.count;
	return r;
}

ret_t nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }

ret_t nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
	struct state s;
	ret_t r = enter(&s);
	if (r != SUCCESS) return r;
	if (index >= (unsigned)s.count) return INVALID_ARGUMENT;
	*device = &handles[index];
	return s.cards[index].there && !s.cards[index].lost ? SUCCESS : GPU_IS_LOST;
}

ret_t nvmlDeviceGetHandleByIndex(unsigned index, void **device) { return nvmlDeviceGetHandleByIndex_v2(index, device); }

ret_t nvmlDeviceGetIndex(void *device, unsigned *index) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r == SUCCESS) *index = (unsigned)(c - s.cards);
	return r;
}

ret_t nvmlDeviceGetUUID(void *device, char *uuid, unsigned size) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	return r == SUCCESS ? text(uuid, size, c->uuid) : r;
}

ret_t nvmlDeviceGetName(void *device, char *name, unsigned size) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	return r == SUCCESS ? text(name, size, c->name) : r;
}

ret_t nvmlDeviceGetMemoryInfo(void *device, struct memory *memory) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	memory->total = c->total;
	memory->used = used(&s, (int)(c - s.cards));
	memory->free = memory->total - memory->used;
	return SUCCESS;
}

ret_t nvmlDeviceGetMemoryInfo_v2(void *device, struct memory_v2 *memory) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	memory->total = c->total;
	memory->reserved = 0;
	memory->used = used(&s, (int)(c - s.cards));
	memory->free = memory->total - memory->used;
	return SUCCESS;
}

ret_t nvmlDeviceGetUtilizationRates(void *device, struct utilization *rates) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	rates->gpu = rates->memory = c->util;
	return SUCCESS;
}

ret_t nvmlDeviceGetTemperature(void *device, int sensor, unsigned *degrees) {
	struct state s;
	struct card *c;
	(void)sensor;
	ret_t r = find(device, &s, &c);
	if (r == SUCCESS) *degrees = c->temp;
	return r;
}

ret_t nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r == SUCCESS) *milliwatts = c->power;
	return r;
}

// A card without the attribute has no counter, like those before Volta.
ret_t nvmlDeviceGetTotalEnergyConsumption(void *device, u64 *millijoules) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	if (!c->has_energy) return NOT_SUPPORTED;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	*millijoules = c->energy + c->flow * (u64)now.tv_sec + c->flow * (u64)now.tv_nsec / 1000000000;
	return SUCCESS;
}

// Only uncorrected errors are scripted. A card without the attribute has no ECC, like the cards for games.
ret_t nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, u64 *count) {
	struct state s;
	struct card *c;
	(void)counter;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	if (!c->has_ecc) return NOT_SUPPORTED;
	*count = type == 1 ? c->ecc : 0;
	return SUCCESS;
}

struct process_v1 {
	unsigned pid;
	u64 used;
};
struct process_v2 {
	unsigned pid;
	u64 used;
	unsigned gpu_instance, compute_instance;
};

ret_t nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process_v2 *into) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	unsigned room = *count, n = 0;
	for (int i = 0; i < s.processes; i++) {
		if (s.process[i].card != (int)(c - s.cards)) continue;
		if (n < room) into[n] = (struct process_v2){s.process[i].pid, s.process[i].used, 0xFFFFFFFF, 0xFFFFFFFF};
		n++;
	}
	*count = n;
	return n > room ? INSUFFICIENT_SIZE : SUCCESS;
}

ret_t nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, struct process_v1 *into) {
	struct process_v2 all[MAX_PROCESSES];
	unsigned room = *count;
	*count = MAX_PROCESSES;
	ret_t r = nvmlDeviceGetComputeRunningProcesses_v3(device, count, all);
	for (unsigned i = 0; r == SUCCESS && i < *count && i < room; i++) into[i] = (struct process_v1){all[i].pid, all[i].used};
	return r == SUCCESS && *count > room ? INSUFFICIENT_SIZE : r;
}

ret_t nvmlDeviceGetSupportedEventTypes(void *device, u64 *types) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r == SUCCESS) *types = EVENT_XID | EVENT_DOUBLE_BIT_ECC;
	return r;
}

// A new set delivers what happens from now on.
ret_t nvmlEventSetCreate(void **set) {
	struct state s;
	ret_t r = enter(&s);
	if (r != SUCCESS) return r;
	r = INVALID_ARGUMENT;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < MAX_SETS && r != SUCCESS; i++) {
		if (sets[i].open) continue;
		memset(&sets[i], 0, sizeof sets[i]);
		sets[i].open = 1;
		for (int e = 0; e < s.events; e++)
			if (s.event[e].seq > sets[i].seen) sets[i].seen = s.event[e].seq;
		*set = &sets[i];
		r = SUCCESS;
	}
	pthread_mutex_unlock(&lock);
	return r;
}

ret_t nvmlDeviceRegisterEvents(void *device, u64 types, void *set) {
	struct state s;
	struct card *c;
	ret_t r = find(device, &s, &c);
	if (r != SUCCESS) return r;
	pthread_mutex_lock(&lock);
	((struct set *)set)->types[c - s.cards] |= types;
	pthread_mutex_unlock(&lock);
	return SUCCESS;
}

struct event_data {
	void *device;
	u64 type, data;
	unsigned gpu_instance, compute_instance;
};

// It never waits longer than it takes to look: whoever asks comes again.
ret_t nvmlEventSetWait_v2(void *of, struct event_data *data, unsigned timeout) {
	struct state s;
	struct set *set = of;
	struct event *next = NULL;
	(void)timeout;
	ret_t r = enter(&s);
	if (r != SUCCESS) return r;
	pthread_mutex_lock(&lock);
	for (int i = 0; i < s.events; i++) {
		struct event *e = &s.event[i];
		if (e->seq > set->seen && (set->types[e->card] & e->type) != 0 && (next == NULL || e->seq < next->seq)) next = e;
	}
	if (next != NULL) {
		set->seen = next->seq;
		*data = (struct event_data){&handles[next->card], next->type, next->data, 0xFFFFFFFF, 0xFFFFFFFF};
	}
	pthread_mutex_unlock(&lock);
	return next != NULL ? SUCCESS : TIMEOUT;
}

ret_t nvmlEventSetWait(void *set, struct event_data *data, unsigned timeout) { return nvmlEventSetWait_v2(set, data, timeout); }

ret_t nvmlEventSetFree(void *set) {
	pthread_mutex_lock(&lock);
	((struct set *)set)->open = 0;
	pthread_mutex_unlock(&lock);
	return SUCCESS;
}
