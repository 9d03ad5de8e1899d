// SPDX-License-Identifier: GPL-3.0-or-later

package task

import "bytes"

// Type is the image's MIME type by how its file begins: that of a PNG, JPEG, WebP or GIF. It is empty for what is none of them.
func (i Image) Type() string {
	begins := func(magic string) bool { return bytes.HasPrefix(i.Data, []byte(magic)) }
	switch {
	case begins("\x89PNG\r\n\x1a\n"):
		return "image/png"
	case begins("\xff\xd8\xff"):
		return "image/jpeg"
	case begins("GIF87a"), begins("GIF89a"):
		return "image/gif"
	case begins("RIFF") && len(i.Data) >= 12 && string(i.Data[8:12]) == "WEBP":
		return "image/webp"
	}
	return ""
}
