/** `map --html` and `map --svg`: what is written, and what a browser makes of it. */
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium, type Browser, type Page } from 'playwright-core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { makeDirectory, qcow2 } from './run.js';
import { qemuImg, qemuIo } from '../support/oracle.js';

/** One directory for all: the images take the longest to make. */
const directory = makeDirectory();
const at = (name = ''): string => join(directory, name);
const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(
  (path) => existsSync(path),
);

/** Names that would do harm if they were taken for markup, script or control sequences. */
const evil = '</script><img src=x onerror=alert(1)>\u001b[31m\u202e"\'&amp;';

beforeAll(async () => {
  const [base, top] = [at('base.qcow2'), at('disk.qcow2')];
  await qemuImg(['create', '-q', '-f', 'qcow2', base, '256M']);
  await qemuIo(base, ['write -P 1 0 16M']);
  await qemuImg(['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', top, '256M']);
  await qemuIo(top, ['write -P 2 32M 8M', 'write -c -P 3 64M 1M', 'write -z 128M 32M']);
  await qemuImg(['snapshot', '-c', evil, top]);
  await qemuImg(['bitmap', '--add', top, evil]);
});

afterAll(() => {
  rmSync(directory, { recursive: true });
});

describe('map --html and --svg', () => {
  it('write one file that asks for nothing else', async () => {
    const { code, stdout, stderr } = await qcow2(
      ['map', '--html', 'page.html', '--svg', 'a.svg', 'disk.qcow2'],
      at(),
    );
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '', stderr: '' });
    for (const name of ['page.html', 'a.svg']) {
      const markup = readFileSync(at(name), 'utf8');
      expect(markup).not.toMatch(/<[^>]*\s(src|href)=|@import|url\(/);
      expect(markup).not.toContain('<img');
      expect(markup).not.toContain('\u001b');
      expect(markup).not.toContain('\u202e');
    }
    expect(readFileSync(at('a.svg'), 'utf8')).toMatch(/^<svg .*<\/svg>\n$/s);
  });

  it('write over an earlier picture, and over nothing else', async () => {
    writeFileSync(at('page.html'), '<p>an earlier and longer one</p>'.repeat(10_000));
    expect(await qcow2(['map', '--html', 'page.html', 'disk.qcow2'], at())).toMatchObject({ code: 0 });
    expect(readFileSync(at('page.html'), 'utf8')).toMatch(/<\/html>\n$/);
    const before = readFileSync(at('disk.qcow2'));
    const { code, stderr } = await qcow2(['map', '--html', 'disk.qcow2', 'disk.qcow2'], at());
    expect(code).toBe(1);
    expect(stderr).toContain("Could not write 'disk.qcow2': it exists and is no picture");
    expect(readFileSync(at('disk.qcow2')).equals(before)).toBe(true);
  });

  it('refuse what is no qcow2 image', async () => {
    writeFileSync(at('disk.raw'), Buffer.alloc(65536));
    const { code, stderr } = await qcow2(['map', '-f', 'raw', '--html', 'none.html', 'disk.raw'], at());
    expect(code).toBe(1);
    expect(stderr).toContain('Only qcow2 images can be pictured');
    expect(existsSync(at('none.html'))).toBe(false);
  });
});

if (executablePath !== undefined) {
  describe('the page in a browser', () => {
    let browser: Browser;
    let page: Page;
    let complaints: string[];

    beforeAll(async () => {
      await qcow2(['map', '--html', 'page.html', 'disk.qcow2'], at());
      browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
    });
    afterAll(async () => {
      await browser.close();
    });

    beforeEach(async () => {
      complaints = [];
      page = await browser.newPage();
      page.on('console', (message) => complaints.push(message.text()));
      page.on('pageerror', (error) => complaints.push(error.message));
      page.on('dialog', (dialog) => {
        complaints.push(dialog.message());
        void dialog.dismiss();
      });
      page.on('request', (request) => {
        if (!request.url().startsWith('file:')) complaints.push(request.url());
      });
      await page.goto(pathToFileURL(at('page.html')).href);
    });

    it('loads without an error, a request or a script of a stranger', async () => {
      expect(await page.title()).toBe('disk.qcow2 – map of a qcow2 image');
      const row = page.locator('h2:text("Snapshots") + .wide tbody tr');
      // As plain text, what is not plain made visible.
      expect(await row.locator('td').first().textContent()).toContain(
        '</script><img src=x onerror=alert(1)>\\u001b[31m',
      );
      expect(await page.locator('h2:text("Bitmaps") + .wide tbody tr').count()).toBe(1);
      expect(await page.locator('img').count()).toBe(0);
      expect(complaints).toEqual([]);
    });

    it('tells the numbers of the image in tables', async () => {
      const cells = async (kind: string): Promise<string[]> =>
        page
          .locator(`h2:text("as the guest sees it") ~ .wide >> nth=0 >> tr:has(th:text-is("${kind}")) >> td`)
          .allTextContents();
      expect((await cells('Data')).slice(0, 3)).toEqual(['8.00 MiB', '8,388,608', '3.1 %']);
      expect((await cells('Compressed')).slice(0, 2)).toEqual(['1.00 MiB', '1,048,576']);
      expect((await cells('Zeros')).slice(0, 2)).toEqual(['32.0 MiB', '33,554,432']);
      const chain = page.locator('h2:text("The backing chain") ~ .wide >> nth=0 >> tbody tr');
      expect(await chain.count()).toBe(2);
      expect(await chain.nth(1).textContent()).toContain('16.0 MiB');
    });

    it('is used with the keyboard: a cursor that says what it is on, and zoom', async () => {
      const strip = page.locator('svg.strip').first();
      await strip.focus();
      await page.keyboard.press('Home');
      expect(await strip.getAttribute('aria-valuetext')).toMatch(
        /^0 bytes to 256 KiB: Not stored here 256 KiB/,
      );
      for (let i = 0; i < 128; i++) await page.keyboard.press('ArrowRight');
      expect(await strip.getAttribute('aria-valuenow')).toBe('128');
      expect(await strip.getAttribute('aria-valuetext')).toMatch(/^32\.0 MiB to 32\.3 MiB: Data 256 KiB$/);
      const whole = await strip.getAttribute('viewBox');
      await page.keyboard.press('+');
      const [start, , width] = ((await strip.getAttribute('viewBox')) ?? '').split(' ').map(Number);
      expect(width).toBe(512);
      expect(start).toBeLessThanOrEqual(128);
      await page.keyboard.press('0');
      expect(await strip.getAttribute('viewBox')).toBe(whole);
      // Without a picture to look at, the same is in a region that can be reached and read.
      expect(await strip.getAttribute('role')).toBe('slider');
    });

    it('is used with the mouse: what is under it, wheel, drag and buttons', async () => {
      const strip = page.locator('svg.strip').first();
      const box = (await strip.boundingBox()) ?? expect.fail('not shown');
      // Half-way through the disk there are zeros.
      await page.mouse.move(box.x + box.width * 0.51, box.y + box.height / 2);
      const output = page.locator('figure').first().locator('output');
      expect(await output.textContent()).toMatch(/: Zeros 256 KiB$/);
      const tip = page.locator('.tip');
      expect(await tip.textContent()).toMatch(/ to .*\nZeros 256 KiB$/);
      // The plot of places has its own, wherever something is stored.
      const plot = page.locator('svg.plot');
      await plot.scrollIntoViewIfNeeded();
      await plot.locator('path').first().hover();
      expect(await tip.textContent()).toMatch(/^Disk .* to .*\nFile .* to .*\n.* stored$/);
      await page.mouse.move(2, 2);
      expect(await tip.isVisible()).toBe(false);
      await strip.scrollIntoViewIfNeeded();
      await page.mouse.move(box.x + box.width * 0.51, box.y + box.height / 2);
      await page.mouse.wheel(0, -300);
      await expect.poll(() => strip.getAttribute('viewBox')).not.toMatch(/^0 0 1024 /);
      const zoomed = await strip.getAttribute('viewBox');
      await page.mouse.down();
      await page.mouse.move(box.x + box.width * 0.3, box.y + box.height / 2);
      await page.mouse.up();
      expect(await strip.getAttribute('viewBox')).not.toBe(zoomed);
      // Both strips of the disk move together; the buttons are named.
      expect(await page.locator('svg.strip').nth(1).getAttribute('viewBox')).toBe(
        await strip.getAttribute('viewBox'),
      );
      await page.getByRole('button', { name: 'Show all' }).first().click();
      expect(await strip.getAttribute('viewBox')).toBe('0 0 1024 100');
      expect(complaints).toEqual([]);
    });

    it('is legible by the light and in the dark, and on a small screen', async () => {
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width: 360, height: 700 });
        // As text: the tests know no browser's types.
        const colours = await page.evaluate<[string, string]>(
          'const { color, backgroundColor } = getComputedStyle(document.body); [color, backgroundColor]',
        );
        const [ink, paper] = colours.map((text) => (text.match(/\d+/g) ?? []).map(Number));
        expect(contrast(ink ?? [], paper ?? [])).toBeGreaterThan(7);
        const overflow = await page.evaluate<number>('document.documentElement.scrollWidth - innerWidth');
        expect(overflow).toBeLessThanOrEqual(0);
      }
    });
  });
}

/** The contrast ratio of WCAG 2. */
function contrast(first: readonly number[], second: readonly number[]): number {
  const luminance = (rgb: readonly number[]): number => {
    const [r = 0, g = 0, b = 0] = rgb.map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [light = 0, dark = 0] = [luminance(first), luminance(second)].sort((a, b) => b - a);
  return (light + 0.05) / (dark + 0.05);
}
