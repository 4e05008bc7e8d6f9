/** What the jailer ends with: its sentence, and the name its error has there. */
export class JailerRefused extends Error {
  override readonly name = 'JailerRefused';
  readonly debug: string;
  constructor(debug: string, message: string) {
    super(message);
    this.debug = debug;
  }
}
