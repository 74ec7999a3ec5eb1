//! Guests of 512 bytes, which print a text to the serial port and then do one thing. They boot in a third of a second.

/// What a boot sector does after it has printed its text.
#[derive(Debug, Clone, Copy)]
pub enum Then {
    /// Powers off by ACPI.
    PowerOff,
    /// Tells pvpanic that its kernel panicked.
    Panic,
    /// Halts for ever, deaf to the power button.
    Hang,
    /// Adds one to the first byte of the second sector, prints that as a digit, and powers off; prints `F` where it cannot write.
    Count,
    /// Does as `Count` on the second disk; prints `F` where there is none.
    CountOnSecond,
    /// Writes the disk's first 32 MiB but the first 32 KiB; prints `K` when that is done, `F` as soon as a write fails, and
    /// powers off.
    Fill,
    /// Prints every character that is typed.
    Echo,
    /// Prints as fast as it can, for ever.
    Flood,
    /// Prints a number of four hexadecimal digits in a line of its own with each tick of the timer, some 18 a second: 0001, 0002, …
    Tick,
}

/// Makes a disk of 1 MiB that starts with the boot sector: SeaBIOS boots no smaller one from virtio.
pub fn disk(text: &str, then: Then) -> Vec<u8> {
    // mov dx, 0x3f8; out dx, al
    const PRINT: [u8; 4] = [0xba, 0xf8, 0x03, 0xee];
    const POWER_OFF: [u8; 7] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef];
    let drive = if matches!(then, Then::CountOnSecond) { 0x81 } else { 0x80 };
    let count = [
        &[0x31, 0xc0, 0x8e, 0xc0][..],   // xor ax, ax; mov es, ax
        &[0xbb, 0x00, 0x80],             // mov bx, 0x8000
        &[0xb9, 0x02, 0x00],             // mov cx, 2: cylinder 0, sector 2
        &[0xba, drive, 0x00],            // mov dx, drive: head 0
        &[0xb8, 0x01, 0x02, 0xcd, 0x13], // mov ax, 0x0201; int 0x13: read one sector
        &[0xfe, 0x06, 0x00, 0x80],       // inc byte [0x8000]
        &[0xbb, 0x00, 0x80, 0xb9, 0x02, 0x00, 0xba, drive, 0x00],
        &[0xb8, 0x01, 0x03, 0xcd, 0x13], // mov ax, 0x0301; int 0x13: write it
        &[0xb0, b'F', 0x72, 0x05],       // mov al, 'F'; jc print
        &[0xa0, 0x00, 0x80, 0x04, 0x30], // mov al, [0x8000]; add al, '0'
        &PRINT,                          // print:
        &POWER_OFF,
    ]
    .concat();
    let fill = [
        // These are the packet of an extended write at 0x8000: size, 64 sectors, from 0:0x9000, to sector 64.
        &[0xc7, 0x06, 0x00, 0x80, 0x10, 0x00, 0xc7, 0x06, 0x02, 0x80, 0x40, 0x00][..],
        &[0xc7, 0x06, 0x04, 0x80, 0x00, 0x90, 0xc7, 0x06, 0x06, 0x80, 0x00, 0x00],
        &[0xc7, 0x06, 0x08, 0x80, 0x40, 0x00, 0xc7, 0x06, 0x0a, 0x80, 0x00, 0x00],
        &[0xc7, 0x06, 0x0c, 0x80, 0x00, 0x00, 0xc7, 0x06, 0x0e, 0x80, 0x00, 0x00],
        &[0xbe, 0x00, 0x80],             // next: mov si, 0x8000
        &[0xb8, 0x00, 0x43],             // mov ax, 0x4300
        &[0xba, 0x80, 0x00, 0xcd, 0x13], // mov dx, 0x80; int 0x13
        &[0xb0, b'F', 0x72, 0x09],       // mov al, 'F'; jc done
        &[0x83, 0x06, 0x08, 0x80, 0x40], // add word [0x8008], 64
        &[0xb0, b'K', 0x73, 0xe8],       // mov al, 'K'; jnc next: until it wraps
        &PRINT,                          // done:
        &POWER_OFF,
    ]
    .concat();
    let tick = [
        &[0x31, 0xdb][..],                                 // xor bx, bx
        &[0x43, 0xb9, 0x04, 0x00],                         // next: inc bx; mov cx, 4
        &[0xc1, 0xc3, 0x04, 0x88, 0xd8, 0x24, 0x0f], // digit: rol bx, 4; mov al, bl; and al, 15
        &[0x3c, 0x0a, 0x72, 0x02, 0x04, 0x07],       // cmp al, 10; jb decimal; add al, 7
        &[0x04, 0x30, 0x88, 0xc4],                   // decimal: add al, '0'; mov ah, al
        &[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb], // mov dx, 0x3fd; in al, dx; test al, 0x20; jz $-3
        &[0xba, 0xf8, 0x03, 0x88, 0xe0, 0xee],             // mov dx, 0x3f8; mov al, ah; out dx, al
        &[0xe2, 0xdf],                                     // loop digit
        &[0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb],
        &[0xba, 0xf8, 0x03, 0xb0, b'\n', 0xee], // a line feed in the same way
        &[0xfb, 0xf4, 0xfa, 0xeb, 0xc8],        // sti; hlt; cli; jmp next
    ]
    .concat();
    let ending: &[u8] = match then {
        // mov dx, 0x604; mov ax, 0x2000; out dx, ax: sleep state S5 in the `pc` machine's ACPI PM1a control register
        Then::PowerOff => &POWER_OFF,
        // mov dx, 0x505; mov al, 1; out dx, al: "panicked" in QEMU's docs/specs/pvpanic.rst
        Then::Panic => &[0xba, 0x05, 0x05, 0xb0, 0x01, 0xee],
        Then::Hang => &[],
        Then::Count | Then::CountOnSecond => &count,
        Then::Fill => &fill,
        Then::Tick => &tick,
        // again: mov dx, 0x3fd; in al, dx; test al, 1; jz $-3; mov dx, 0x3f8; in al, dx; out dx, al; jmp again
        Then::Echo => &[
            0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0xec, 0xee, 0xeb,
            0xf1,
        ],
        // again: mov dx, 0x3fd; in al, dx; test al, 0x20; jz $-3; mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp again
        Then::Flood => &[
            0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb, 0xba, 0xf8, 0x03, 0xb0, b'x', 0xee,
            0xeb, 0xf0,
        ],
    };
    let halt = [0xfa, 0xf4, 0xeb, 0xfd]; // cli; hlt; jmp $-1
    // SeaBIOS's timer still writes messages to the serial port, and reads typed characters there, so that interrupts are off from
    // here.
    let mut code = match then {
        // A disk's interrupt lets the timer's in as well, so that three ticks of it come first: sti; hlt; hlt; hlt; cli.
        Then::Count | Then::CountOnSecond | Then::Fill => vec![0xfb, 0xf4, 0xf4, 0xf4, 0xfa],
        Then::PowerOff | Then::Panic | Then::Hang | Then::Echo | Then::Flood | Then::Tick => {
            vec![0xfa] // cli
        }
    };
    let text_address = code.len() + 6..code.len() + 8;
    code.extend([
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
    ]); //                   done:
    code.extend(ending);
    code.extend(halt);
    let address = 0x7c00 + u16::try_from(code.len()).expect("a boot sector is small");
    code[text_address].copy_from_slice(&address.to_le_bytes());
    code.extend(text.bytes());
    code.extend(b"\r\n\0");
    assert!(code.len() <= 510, "the text is too long for a boot sector");
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code.resize(1 << 20, 0);
    code
}
