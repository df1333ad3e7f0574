/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dictionary that both ends prime zlib with.
 * Source:    SPDY Protocol, Draft 3 (draft-mbelshe-httpbis-spdy-00), section 2.6.10.1, which Draft 3.1 keeps:
 *            the names and values of HTTP headers, each after its length in four bytes, big-endian, as in a
 *            header block; then text without lengths.
 */
#include "cri/stream/spdy_internal.h"

#include "base/util.h"

#include <assert.h>
#include <string.h>

static const char *const words[] = {
	"options",
	"head",
	"post",
	"put",
	"delete",
	"trace",
	"accept",
	"accept-charset",
	"accept-encoding",
	"accept-language",
	"accept-ranges",
	"age",
	"allow",
	"authorization",
	"cache-control",
	"connection",
	"content-base",
	"content-encoding",
	"content-language",
	"content-length",
	"content-location",
	"content-md5",
	"content-range",
	"content-type",
	"date",
	"etag",
	"expect",
	"expires",
	"from",
	"host",
	"if-match",
	"if-modified-since",
	"if-none-match",
	"if-range",
	"if-unmodified-since",
	"last-modified",
	"location",
	"max-forwards",
	"pragma",
	"proxy-authenticate",
	"proxy-authorization",
	"range",
	"referer",
	"retry-after",
	"server",
	"te",
	"trailer",
	"transfer-encoding",
	"upgrade",
	"user-agent",
	"vary",
	"via",
	"warning",
	"www-authenticate",
	"method",
	"get",
	"status",
	"200 OK",
	"version",
	"HTTP/1.1",
	"url",
	"public",
	"set-cookie",
	"keep-alive",
	"origin",
};

/* The draft's own order; it repeats and leaves out what it likes. */
static const char text[] = "100101201202205206300302303304305306307"
			   "402405406407408409410411412413414415416417502504505"
			   "203 Non-Authoritative Information"
			   "204 No Content"
			   "301 Moved Permanently"
			   "400 Bad Request"
			   "401 Unauthorized"
			   "403 Forbidden"
			   "404 Not Found"
			   "500 Internal Server Error"
			   "501 Not Implemented"
			   "503 Service Unavailable"
			   "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 "
			   "Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
			   "chunked,text/html,image/png,image/jpg,image/gif,"
			   "application/xml,application/xhtml+xml,text/plain,text/javascript,"
			   "publicprivatemax-age="
			   "gzip,deflate,sdch"
			   "charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

void spdy_dictionary(unsigned char ret_bytes[SPDY_DICTIONARY_LEN])
{
	unsigned char *p = ret_bytes;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		size_t len = strlen(words[i]); /* below 256 */

		*p++ = 0;
		*p++ = 0;
		*p++ = 0;
		*p++ = (unsigned char)len;
		memcpy(p, words[i], len);
		p += len;
	}
	memcpy(p, text, sizeof(text) - 1);
	assert(p + sizeof(text) - 1 == ret_bytes + SPDY_DICTIONARY_LEN);
}
