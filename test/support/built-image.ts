import { join } from 'node:path';
import { findBuiltImage, type BuiltImage } from '../../src/guest/image/build-image.ts';

/** The image `hatchd image build` made; HATCH_TEST_IMAGES names another folder than the repository's. Throws without one. */
export async function builtImage(): Promise<BuiltImage> {
  const folder = process.env['HATCH_TEST_IMAGES'] ?? join(import.meta.dirname, '../../data/images');
  const image = await findBuiltImage(folder);
  if (!image) throw new Error(`There is no built image in ${folder}: run "bin/hatchd image build" first.`);
  return image;
}
