//! Guests of 512 bytes: print a text to the serial port, then do one thing. They boot in a third of a second.

/// What a boot sector does after it has printed.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// Powers off by ACPI.
    PowerOff,
    /// Tells pvpanic that its kernel panicked.
    Panic,
    /// Halts for ever, deaf to the power button.
    Hang,
}

/// A disk of 1 MiB that starts with the boot sector: SeaBIOS boots no smaller one from virtio.
pub fn disk(text: &str, then: Then) -> Vec<u8> {
    let ending: &[u8] = match then {
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax: sleep state S5 in the `pc` machine's ACPI PM1a control register
        Then::PowerOff => &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef],
        // mov dx, 0x505; mov al, 1; out dx, al: "panicked" in QEMU's docs/specs/pvpanic.rst
        Then::Panic => &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee],
        Then::Hang => &[],
    };
    let halt = [0xfa, 0xf4, 0xeb, 0xfd]; // cli; hlt; jmp $-1
    let mut code = vec![
        0x31, 0xc0, //             xor ax, ax
        0x8e, 0xd8, //             mov ds, ax
        0xfc, //                   cld
        0xbe, 0x00, 0x00, //       mov si, text (below)
        0xba, 0xfd, 0x03, // next: mov dx, 0x3fd (line status)
        0xec, //             wait: in al, dx
        0xa8, 0x20, //             test al, 0x20 (transmitter empty)
        0x74, 0xfb, //             jz wait
        0xba, 0xf8, 0x03, //       mov dx, 0x3f8 (COM1)
        0xac, //                   lodsb
        0x84, 0xc0, //             test al, al
        0x74, 0x03, //             jz done
        0xee, //                   out dx, al
        0xeb, 0xed, //             jmp next
    ]; //                    done:
    code.extend(ending);
    code.extend(halt);
    let address = 0x7c00 + u16::try_from(code.len()).expect("a boot sector is small");
    code[6..8].copy_from_slice(&address.to_le_bytes());
    code.extend(text.bytes());
    code.extend(b"\r\n\0");
    assert!(code.len() <= 510, "the text is too long for a boot sector");
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code.resize(1 << 20, 0);
    code
}
