/* What a static program for MIPS does not have: tables for unwinding, symbols, and words for a panic. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <ucontext.h>
#include <unistd.h>

#define NOTHING(name) void *name(void) { return 0; }

/* A panic asks libunwind for the frames of its stack, which it does not find: 40 KB that say nothing. */
NOTHING(_Unwind_GetDataRelBase)
NOTHING(_Unwind_GetIP)
NOTHING(_Unwind_GetIPInfo)
NOTHING(_Unwind_GetLanguageSpecificData)
NOTHING(_Unwind_GetRegionStart)
NOTHING(_Unwind_GetTextRelBase)
NOTHING(_Unwind_SetGR)
NOTHING(_Unwind_SetIP)

int _Unwind_Backtrace(void)
{
	return 5; /* the end of the stack */
}

/* musl's own dlsym takes its address from $t9, which code that is not position-independent does not set, and crashes. There
 * are no symbols to look up: rustix, which looks for newer functions this way, goes on. */
NOTHING(dlsym)

/* musl's own writes the path of another thread's name with snprintf, which has floating point: 14 KB. std names the thread it
 * is in. */
int pthread_setname_np(pthread_t thread, const char *name)
{
	(void)thread;
	return prctl(PR_SET_NAME, name) ? errno : 0;
}

static void hex(char *to, unsigned value)
{
	for (int n = 0; n < 8; n++)
		to[n] = "0123456789abcdef"[value >> (28 - 4 * n) & 15];
}

/* Tells stderr and the log where a panic was, and where its function was called from, as far as a register still has that.
 * addr2line -f -e meshseed.debug gives names to both. */
static void panicked(int signal, siginfo_t *info, void *at)
{
	static char line[] = "<26>Jan  1 00:00:00 meshseed: panic at ........ called from ........\n";
	static const struct sockaddr_un log = { AF_UNIX, "/dev/log" };
	const mcontext_t *registers = &((ucontext_t *)at)->uc_mcontext;
	char *end = line + sizeof line - 1;
	int socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	hex(end - 9, registers->gregs[31]);
	hex(end - 30, registers->pc);
	(void)!write(2, line + 20, end - line - 20);
	sendto(socket_, line, end - line - 1, 0, (const struct sockaddr *)&log, sizeof log);
	(void)signal, (void)info;
	/* Once (SA_RESETHAND): the same instruction ends the process now. */
}

__attribute__((constructor)) static void listen_for_panics(void)
{
	struct sigaction action = { .sa_sigaction = panicked, .sa_flags = SA_SIGINFO | SA_RESETHAND };

	sigaction(SIGTRAP, &action, 0);
}
