// SPDX-License-Identifier: GPL-3.0-or-later

package task

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// LO-415
func TestAnImageIsWhatItsFileIs(t *testing.T) {
	for file, want := range map[string]string{
		"\x89PNG\r\n\x1a\n...": "image/png", "\xff\xd8\xff\xe0": "image/jpeg", "RIFF\x01\x02\x03\x04WEBPVP8 ": "image/webp", "GIF87a": "image/gif", "GIF89a": "image/gif",
		"": "", "\x89PNG": "", "RIFF": "", "RIFF\x01\x02\x03\x04WAVE": "", "%PDF-1.7": "", "GIF88a": "", "<svg": "",
	} {
		require.Equal(t, want, Image{MIME: "image/png", Data: []byte(file)}.Type(), "%q", file)
	}
}
