"""What a user declared, as facts, and the words that libvirt's XML carries them in. Pure."""
