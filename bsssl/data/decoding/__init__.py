"""From bytes to pixels: pictures and videos."""
