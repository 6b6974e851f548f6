/*
 * http/multi.c
 *	  The event loop: libcurl's sockets and its one timer behind a single
 *	  epoll descriptor.
 *
 * libcurl tells which sockets it wants watched and when it wants to be called
 * again; both go into a private epoll set, the time as a timerfd.  That one
 * descriptor becomes readable whenever something is due, so the caller can
 * wait for it next to its latch without ever changing its own wait set.
 *
 * libcurl resolves names in threads of its own, and a thread inherits the
 * signal mask of whoever starts it.  PostgreSQL's handlers must never run in
 * one, so signals are blocked around every call that could start one.
 *
 * Nothing here throws: callbacks note an error and libcurl gives up.
 */
#include "postgres.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "storage/fd.h"

#include "http/http.h"
#include "http/transfer.h"

/* CURLOPT_QUICK_EXIT, without which a slow resolver blocks everything. */
#define MIN_LIBCURL 0x075700
StaticAssertDecl(LIBCURL_VERSION_NUM >= MIN_LIBCURL,
				 "pg_registry needs libcurl 7.87 or later");

#define MAX_CONNECTIONS 8L
#define EVENTS_AT_ONCE 16

struct PgrHttp
{
	CURLM *multi; /* NULL = to be made again */
	int epoll_fd;
	int timer_fd;
	PgrHttpTransfer *transfers;
};

static void
block_signals(sigset_t *saved)
{
	sigset_t mask;

	sigfillset(&mask);
	/* These mean a bug in this very code, and cannot wait. */
	sigdelset(&mask, SIGABRT);
	sigdelset(&mask, SIGBUS);
	sigdelset(&mask, SIGFPE);
	sigdelset(&mask, SIGILL);
	sigdelset(&mask, SIGSEGV);
	pthread_sigmask(SIG_BLOCK, &mask, saved);
}

static void
restore_signals(const sigset_t *saved)
{
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

/* libcurl wants this socket watched for that, or no longer. */
static int
socket_cb(CURL *easy, curl_socket_t socket, int what, void *arg, void *unused)
{
	PgrHttp *http = arg;
	struct epoll_event event = {.data.fd = socket};

	if (what == CURL_POLL_REMOVE)
	{
		/* It may be closed already. */
		(void) epoll_ctl(http->epoll_fd, EPOLL_CTL_DEL, socket, NULL);
		return 0;
	}
	if (what & CURL_POLL_IN)
		event.events |= EPOLLIN;
	if (what & CURL_POLL_OUT)
		event.events |= EPOLLOUT;
	if (epoll_ctl(http->epoll_fd, EPOLL_CTL_MOD, socket, &event) == 0)
		return 0;
	return epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, socket, &event) == 0 ? 0 :
																		   -1;
}

/* libcurl wants to be called in that many milliseconds; -1 = not at all. */
static int
timer_cb(CURLM *multi, long timeout_ms, void *arg)
{
	PgrHttp *http = arg;
	struct itimerspec when = {0};

	if (timeout_ms >= 0)
	{
		when.it_value.tv_sec = timeout_ms / 1000;
		when.it_value.tv_nsec = timeout_ms % 1000 * 1000000L;
		/* All zero would disarm it. */
		if (timeout_ms == 0)
			when.it_value.tv_nsec = 1;
	}
	return timerfd_settime(http->timer_fd, 0, &when, NULL) == 0 ? 0 : -1;
}

static bool
make_multi(PgrHttp *http)
{
	CURLM *multi = curl_multi_init();

	if (multi == NULL)
		return false;
	if (curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, socket_cb) !=
			CURLM_OK ||
		curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, http) != CURLM_OK ||
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, timer_cb) !=
			CURLM_OK ||
		curl_multi_setopt(multi, CURLMOPT_TIMERDATA, http) != CURLM_OK ||
		curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
						  MAX_CONNECTIONS) != CURLM_OK)
	{
		(void) curl_multi_cleanup(multi);
		return false;
	}
	http->multi = multi;
	return true;
}

static bool
open_descriptors(PgrHttp *http)
{
	struct epoll_event event = {.events = EPOLLIN};

	http->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	http->timer_fd = timerfd_create(CLOCK_MONOTONIC,
									TFD_CLOEXEC | TFD_NONBLOCK);
	event.data.fd = http->timer_fd;
	return http->epoll_fd >= 0 && http->timer_fd >= 0 &&
		epoll_ctl(http->epoll_fd, EPOLL_CTL_ADD, http->timer_fd, &event) == 0;
}

static bool
init_libcurl(PgrHttp *http)
{
	sigset_t saved;
	bool ready;

	block_signals(&saved);
	ready = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK &&
		make_multi(http);
	restore_signals(&saved);
	return ready;
}

/* NULL, or what is missing. */
static const char *
init_http(PgrHttp *http)
{
	if (!open_descriptors(http))
		return "out of file descriptors";
	if (curl_version_info(CURLVERSION_NOW)->version_num < MIN_LIBCURL)
		return "libcurl is too old: 7.87 or later is needed";
	if (!init_libcurl(http))
		return "libcurl cannot be initialized";
	return NULL;
}

/* What init_http did until it failed. */
static void
undo_http(PgrHttp *http)
{
	if (http->epoll_fd >= 0)
		(void) close(http->epoll_fd);
	if (http->timer_fd >= 0)
		(void) close(http->timer_fd);
	free(http);
}

PgrHttp *
pgr_http_create(char error[PGR_HTTP_ERROR_LEN])
{
	PgrHttp *http = calloc(1, sizeof(PgrHttp));
	const char *why = "out of memory";

	if (http != NULL)
	{
		http->epoll_fd = http->timer_fd = -1;
		why = init_http(http);
		if (why == NULL)
		{
			/* PostgreSQL counts descriptors that are not its own. */
			ReserveExternalFD();
			ReserveExternalFD();
			return http;
		}
		undo_http(http);
	}
	strlcpy(error, why, PGR_HTTP_ERROR_LEN);
	return NULL;
}

int
pgr_http_fd(const PgrHttp *http)
{
	return http->epoll_fd;
}

PgrHttpTransfer *
pgr_http_start(PgrHttp *http, const PgrHttpRequest *request,
			   char error[PGR_HTTP_ERROR_LEN])
{
	PgrHttpTransfer *transfer;
	CURLMcode code = CURLM_OUT_OF_MEMORY;
	sigset_t saved;

	transfer = pgr_transfer_create(request, error);
	if (transfer == NULL)
		return NULL;

	block_signals(&saved);
	if (http->multi != NULL || make_multi(http))
		code = curl_multi_add_handle(http->multi, transfer->easy);
	restore_signals(&saved);
	if (code != CURLM_OK)
	{
		strlcpy(error, curl_multi_strerror(code), PGR_HTTP_ERROR_LEN);
		pgr_transfer_free(transfer);
		return NULL;
	}
	transfer->in_multi = true;
	transfer->next = http->transfers;
	http->transfers = transfer;
	return transfer;
}

static void
leave_multi(PgrHttp *http, PgrHttpTransfer *transfer)
{
	if (transfer->in_multi)
		(void) curl_multi_remove_handle(http->multi, transfer->easy);
	transfer->in_multi = false;
}

static void
take_finished(PgrHttp *http)
{
	CURLMsg *message;
	int left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		CURLcode code = message->data.result;
		PgrHttpTransfer *transfer = NULL;

		if (message->msg != CURLMSG_DONE ||
			curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE,
							  (char **) &transfer) != CURLE_OK)
			continue;
		pgr_transfer_finish(transfer, code);
		leave_multi(http, transfer);
	}
}

static void
drop_multi(PgrHttp *http)
{
	(void) curl_multi_cleanup(http->multi);
	http->multi = NULL;
	/* or it would make the descriptor readable for ever */
	(void) timer_cb(NULL, -1, http);
}

/* After an error of the multi handle itself nothing in it can be trusted. */
static void
abandon_multi(PgrHttp *http, CURLMcode code)
{
	for (PgrHttpTransfer *transfer = http->transfers; transfer != NULL;
		 transfer = transfer->next)
	{
		if (!transfer->in_multi)
			continue;
		strlcpy(transfer->curl_error, curl_multi_strerror(code),
				sizeof(transfer->curl_error));
		pgr_transfer_finish(transfer, CURLE_FAILED_INIT);
		leave_multi(http, transfer);
	}
	drop_multi(http);
}

static CURLMcode
handle_event(PgrHttp *http, const struct epoll_event *event)
{
	curl_socket_t socket = event->data.fd;
	uint64 expirations;
	int mask = 0;
	int running;

	if (socket == http->timer_fd)
	{
		/* An empty read means that libcurl has set it anew meanwhile. */
		if (read(http->timer_fd, &expirations, sizeof(expirations)) < 0)
			return CURLM_OK;
		return curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0,
										&running);
	}
	if (event->events & EPOLLIN)
		mask |= CURL_CSELECT_IN;
	if (event->events & EPOLLOUT)
		mask |= CURL_CSELECT_OUT;
	if (event->events & (EPOLLERR | EPOLLHUP))
		mask |= CURL_CSELECT_ERR;
	return curl_multi_socket_action(http->multi, socket, mask, &running);
}

void
pgr_http_drive(PgrHttp *http)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	CURLMcode code = CURLM_OK;
	sigset_t saved;
	int n;

	if (http->multi == NULL)
		return;
	block_signals(&saved);
	n = epoll_wait(http->epoll_fd, events, EVENTS_AT_ONCE, 0);
	for (int i = 0; i < n && code == CURLM_OK; i++)
		code = handle_event(http, &events[i]);
	take_finished(http);
	if (code != CURLM_OK)
		abandon_multi(http, code);
	restore_signals(&saved);
}

const PgrHttpResponse *
pgr_http_response(const PgrHttpTransfer *transfer)
{
	return transfer->finished ? &transfer->response : NULL;
}

void
pgr_http_free(PgrHttp *http, PgrHttpTransfer *transfer)
{
	PgrHttpTransfer **link = &http->transfers;
	sigset_t saved;

	while (*link != transfer)
		link = &(*link)->next;
	*link = transfer->next;

	block_signals(&saved);
	leave_multi(http, transfer);
	pgr_transfer_free(transfer);
	restore_signals(&saved);
}

void
pgr_http_disconnect(PgrHttp *http)
{
	sigset_t saved;

	Assert(http->transfers == NULL);
	if (http->multi == NULL)
		return;
	block_signals(&saved);
	drop_multi(http);
	restore_signals(&saved);
}
